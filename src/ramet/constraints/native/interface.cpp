// The C interface that compiled.py declares. Nothing is thrown across it, and nothing is computed without the
// automaton's gate.

#include <cstring>
#include <mutex>
#include <new>

#include "automaton.h"
#include "partition.h"
#include "walk.h"

namespace {

using ramet::Automaton;
using ramet::Status;

template <typename Work>
int32_t guarded(Automaton* dfa, Work work) {
  try {
    const std::lock_guard<ramet::Gate> hold(dfa->gate);
    return work();
  } catch (const std::bad_alloc&) {
    return ramet::kTooMuchMemory;
  }
}

bool known(const Automaton* dfa, int32_t state) { return state >= 0 && state < dfa->states(); }

}  // namespace

extern "C" {

// What an automaton starts from: fields as nfa.py describes them, counts of states, byte and empty
// transitions.
struct RametNfa {
  const int32_t* first;
  const uint8_t* low;
  const uint8_t* high;
  const int32_t* target;
  const int32_t* eps_first;
  const int32_t* eps_target;
  const int32_t* distance;
  int32_t start, final, states, edges, eps_edges;
};

// nullptr without memory.
Automaton* ramet_dfa_new(const RametNfa* nfa, int64_t states, int64_t bytes, int64_t work) {
  try {
    ramet::Nfa own;
    own.start = nfa->start;
    own.final = nfa->final;
    own.first.assign(nfa->first, nfa->first + nfa->states + 1);
    own.low.assign(nfa->low, nfa->low + nfa->edges);
    own.high.assign(nfa->high, nfa->high + nfa->edges);
    own.target.assign(nfa->target, nfa->target + nfa->edges);
    own.eps_first.assign(nfa->eps_first, nfa->eps_first + nfa->states + 1);
    own.eps_target.assign(nfa->eps_target, nfa->eps_target + nfa->eps_edges);
    own.distance.assign(nfa->distance, nfa->distance + nfa->states);
    return new Automaton(std::move(own), {states, bytes, work});
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// A complete automaton; state 0 is the start. table: [states, classes].
Automaton* ramet_dfa_of_table(int32_t states, int32_t classes, const uint8_t* class_of, const int32_t* table,
                              const uint8_t* accepting, const int32_t* distance) {
  try {
    return new Automaton(states, classes, class_of, table, accepting, distance);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void ramet_dfa_free(Automaton* dfa) { delete dfa; }
void ramet_dfa_cancel(Automaton* dfa) { dfa->cancel(); }

// numbers: start, states, classes, bytes, work so far.
int32_t ramet_dfa_numbers(Automaton* dfa, int64_t* numbers) {
  return guarded(dfa, [&] {
    const int64_t found[] = {dfa->start(), dfa->states(), dfa->classes(), dfa->bytes(), dfa->work()};
    std::memcpy(numbers, found, sizeof(found));
    return ramet::kOk;
  });
}

int32_t ramet_dfa_step(Automaton* dfa, int32_t state, const uint8_t* data, int64_t length, int32_t* to) {
  return guarded(dfa, [&]() -> Status {
    if (!known(dfa, state)) return ramet::kBadState;
    *to = state;
    for (int64_t i = 0; i < length && *to >= 0; ++i) {
      const Status status = dfa->go(*to, dfa->class_of()[data[i]], to);
      if (status != ramet::kOk) return status;
    }
    return ramet::kOk;
  });
}

// facts: whether the state accepts, and its distance. next: 256 bits, the bytes that do not die.
int32_t ramet_dfa_facts(Automaton* dfa, int32_t state, int32_t* facts, ramet::Bits* next) {
  return guarded(dfa, [&] {
    if (!known(dfa, state)) return ramet::kBadState;
    facts[0] = dfa->accepting(state);
    facts[1] = dfa->distance(state);
    *next = dfa->next_bytes(state);
    return ramet::kOk;
  });
}

// From `state` the bytes that are forced or, with `nearest`, those of a shortest way to acceptance, at most
// `most`; states[i] is behind bytes[i].
int32_t ramet_dfa_path(Automaton* dfa, int32_t state, int32_t nearest, int64_t most, int64_t max_work,
                       uint8_t* bytes, int32_t* states, int64_t* count) {
  return guarded(dfa, [&]() -> Status {
    if (!known(dfa, state)) return ramet::kBadState;
    const int64_t begin = dfa->work();
    for (*count = 0; *count < most; ++*count) {
      if (dfa->work() - begin > max_work) return ramet::kOutOfWork;
      int32_t byte, to = ramet::kDead;
      const Status status = nearest ? dfa->nearest_byte(state, &byte, &to) : dfa->forced_byte(state, &byte, &to);
      if (status != ramet::kOk) return status;
      if (byte < 0) break;
      bytes[*count] = static_cast<uint8_t>(byte);
      states[*count] = state = to;
    }
    return ramet::kOk;
  });
}

// distances[i] of states[i], which may be -1.
int32_t ramet_dfa_distances(Automaton* dfa, const int32_t* states, int64_t count, int32_t* distances) {
  return guarded(dfa, [&] {
    for (int64_t i = 0; i < count; ++i) {
      if (states[i] != ramet::kDead && !known(dfa, states[i])) return ramet::kBadState;
      distances[i] = dfa->distance(states[i]);
    }
    return ramet::kOk;
  });
}

int32_t ramet_dfa_mask(Automaton* dfa, int32_t state, const ramet::Trie* trie, int64_t max_work,
                       uint32_t* mask) {
  return guarded(dfa, [&]() -> Status {
    if (!known(dfa, state)) return ramet::kBadState;
    return ramet::walk_mask(*dfa, state, *trie, max_work, mask);
  });
}

// next: [vocabulary size], filled with -1 by the caller.
int32_t ramet_dfa_next_states(Automaton* dfa, int32_t state, const ramet::Trie* trie, int64_t max_work,
                              int32_t* next) {
  return guarded(dfa, [&]() -> Status {
    if (!known(dfa, state)) return ramet::kBadState;
    return ramet::walk_states(*dfa, state, *trie, max_work, next);
  });
}

int32_t ramet_dfa_complete(Automaton* dfa, int32_t most, int64_t most_bytes, int64_t max_work) {
  return guarded(dfa, [&] { return dfa->complete(most, most_bytes, max_work); });
}

// The first `states` states as they are now, for arrays of that size.
int32_t ramet_dfa_export(Automaton* dfa, int32_t states, uint8_t* class_of, int32_t* table,
                         uint8_t* accepting, int32_t* distance) {
  return guarded(dfa, [&] {
    if (states > dfa->states()) return ramet::kBadState;
    std::memcpy(class_of, dfa->class_of(), 256);
    std::memcpy(table, dfa->table(), sizeof(int32_t) * states * dfa->classes());
    for (int32_t s = 0; s < states; ++s) {
      accepting[s] = dfa->accepting(s);
      distance[s] = dfa->distance(s);
    }
    return ramet::kOk;
  });
}

// The number of blocks, or -1 without memory.
int32_t ramet_dfa_partition(int32_t states, int32_t classes, const int32_t* table, const uint8_t* accepting,
                            int32_t* block) {
  try {
    return ramet::partition(states, classes, table, accepting, block);
  } catch (const std::bad_alloc&) {
    return -1;
  }
}
}
