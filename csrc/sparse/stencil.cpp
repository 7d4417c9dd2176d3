#include "sparse/stencil.hpp"

#include <cstdint>

namespace aitken {

namespace {

// Distances in rows from a point to its neighbours along the axes, the last axis first, as the first and the
// last row have them: they lie in opposite corners and have all neighbours after, respectively before, them.
// False where there are more than three axes.
bool find_strides(const pattern_view& a, index (&stride)[3], int& axes) {
    const auto insert = [&](index distance) {
        int at = 0;
        while (at < axes && stride[at] < distance) ++at;
        if (at < axes && stride[at] == distance) return true;
        if (axes == 3) return false;
        for (int k = axes++; k > at; --k) stride[k] = stride[k - 1];
        stride[at] = distance;
        return true;
    };
    const index last = a.rows - 1;
    for (index p = a.indptr[0]; p < a.indptr[1]; ++p)
        if (a.indices[p] != 0 && !insert(a.indices[p])) return false;
    for (index p = a.indptr[last]; p < a.indptr[last + 1]; ++p)
        if (a.indices[p] != last && !insert(last - a.indices[p])) return false;
    // Uncoupled grid rows: the last axis has coefficients 0.
    return axes == 0 || stride[0] == 1 || insert(1);
}

// What a row may hold, in the order of columns: the neighbours before it from the first axis on, itself, and
// those after it from the last axis on.
struct coefficient {
    index distance = 0;
    double value = 0;
    bool stored = false;
};

}  // namespace

std::optional<grid_stencil> find_stencil(const pattern_view& a, const double* values) {
    const index n = a.rows;
    index stride[3] = {0, 0, 0};
    int axes = 0;
    if (n < 1 || a.cols != n || !find_strides(a, stride, axes)) return std::nullopt;

    grid_stencil s;
    index points = n;  // along the axes not yet seen, times those before
    for (int k = 0; k + 1 < axes; ++k) {
        if (stride[k + 1] % stride[k] != 0) return std::nullopt;
        s.extent[2 - k] = stride[k + 1] / stride[k];
        points /= s.extent[2 - k];
    }
    if (axes > 0 && n % stride[axes - 1] != 0) return std::nullopt;
    s.extent[axes == 0 ? 2 : 3 - axes] = points;

    coefficient row[7];
    for (int k = 0; k < axes; ++k) {
        row[2 - k].distance = -stride[k];
        row[4 + k].distance = stride[k];
    }
    const auto learn = [&](index i, int from, int to) {
        for (int c = from; c < to; ++c)
            for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p)
                if (a.indices[p] - i == row[c].distance && (c == 3 || row[c].distance != 0))
                    row[c] = {row[c].distance, values[p], true};
    };
    learn(n - 1, 0, 3);
    learn(0, 3, 7);
    if (!row[3].stored) return std::nullopt;
    s.center = row[3].value;
    for (int k = 0; k < 3; ++k) {
        s.before[k] = row[k].value;
        s.after[k] = row[6 - k].value;
    }

    // 12 bytes per entry.
    index at[3] = {0, 0, 0};
    for (index i = 0; i < n; ++i) {
        index p = a.indptr[i];
        const index end = a.indptr[i + 1];
        for (int c = 0; c < 7; ++c) {
            const int axis = c < 3 ? c : 6 - c;
            if (!row[c].stored || (c < 3 && at[axis] == 0) || (c > 3 && at[axis] == s.extent[axis] - 1))
                continue;
            if (p == end || a.indices[p] - i != row[c].distance || values[p] != row[c].value)
                return std::nullopt;
            ++p;
        }
        if (p != end) return std::nullopt;
        for (int axis = 2; axis >= 0 && ++at[axis] == s.extent[axis]; --axis) at[axis] = 0;
    }
    return s;
}

}  // namespace aitken
