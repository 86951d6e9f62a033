#include "pointwise.h"

namespace ramet {

float inverse_rms(const float* x, int64_t n, float eps) {
  float lanes[kLanes] = {};
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = madd(x[i + lane], x[i + lane], lanes[lane]);
    }
  }
  for (int64_t i = whole; i < n; ++i) lanes[i - whole] = madd(x[i], x[i], lanes[i - whole]);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return 1.0f / std::sqrt(lanes[0] / static_cast<float>(n) + eps);
}

}  // namespace ramet
