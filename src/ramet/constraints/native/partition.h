// Which states of a complete automaton mean the same. Knows a table.
#pragma once

#include <cstdint>

namespace ramet {

// block[s]: the number of the class of states that accept the same texts as s does. table: int32 [states,
// classes], -1 where there is no transition. Returns the number of blocks.
int32_t partition(int32_t states, int32_t classes, const int32_t* table, const uint8_t* accepting,
                  int32_t* block);

}  // namespace ramet
