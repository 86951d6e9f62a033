// An automaton and all tokens of a vocabulary at once: one walk over their prefix tree. Knows the tree's
// arrays (trie.py describes them); does not know what a token is for.
#pragma once

#include <cstdint>

#include "automaton.h"

namespace ramet {

// Nodes in depth-first order, without the root. Fields as ctypes declares them.
struct Trie {
  const uint8_t* byte;     // [nodes]
  const int32_t* depth;    // [nodes], from 1
  const int32_t* end;      // [nodes]: the node behind the subtree
  const int32_t* first;    // [nodes + 1]: tokens that end at a node: order[first[i]] .. order[first[i + 1]]
  const uint64_t* below;   // [nodes]: groups of the bytes below a node, the node's own not included
  const uint8_t* height;   // [nodes]: levels below a node, at most 255
  const uint8_t* group;    // [256]: of each byte, 0 to 63
  const int32_t* order;    // [tokens]
  const uint32_t* all;     // [words]: the mask of every token
  int32_t nodes, tokens, deepest, words;
};

// Sets the bit of every token whose bytes lead from `state` to a live state. kOutOfWork: `mask` means
// nothing.
Status walk_mask(Automaton& automaton, int32_t state, const Trie& trie, int64_t max_work,
                 uint32_t* mask);

// next[id]: the state behind each token that `walk_mask` allows. The others are not written to.
Status walk_states(Automaton& automaton, int32_t state, const Trie& trie, int64_t max_work,
                   int32_t* next);

}  // namespace ramet
