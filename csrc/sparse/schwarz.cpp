#include "sparse/schwarz.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace aitken {

void check_starts(const std::vector<index>& starts, index n, const std::string& name) {
    const std::string quoted = "`" + name + "`";
    if (starts.size() < 2 || starts.front() != 0 || starts.back() != n)
        throw std::invalid_argument(quoted + " must start at 0 and end at the number of rows, " +
                                    std::to_string(n));
    for (std::size_t k = 1; k < starts.size(); ++k)
        if (starts[k] < starts[k - 1])
            throw std::invalid_argument(quoted + " decreases at position " + std::to_string(k) + " (" +
                                        std::to_string(starts[k - 1]) + " to " + std::to_string(starts[k]) +
                                        ")");
}

std::vector<subdomain> make_subdomains(const pattern_view& a, const std::vector<index>& starts, int overlap) {
    std::vector<subdomain> all(starts.size() - 1);
    std::vector<std::int32_t> local(static_cast<std::size_t>(a.rows), -1);
    for (std::size_t s = 0; s < all.size(); ++s) {
        subdomain& d = all[s];
        const index own = starts[s + 1] - starts[s];
        for (index i = starts[s]; i < starts[s + 1]; ++i) {
            d.rows.push_back(static_cast<std::int32_t>(i));
            local[i] = 0;
        }
        std::size_t layer = 0;
        for (int l = 0; l < overlap; ++l) {
            const std::size_t end = d.rows.size();
            for (; layer < end; ++layer) {
                const index i = d.rows[layer];
                for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) {
                    const std::int32_t j = a.indices[p];
                    if (local[j] >= 0) continue;
                    local[j] = 0;
                    d.rows.push_back(j);
                }
            }
        }
        std::sort(d.rows.begin(), d.rows.end());
        const auto m = static_cast<index>(d.rows.size());
        for (index k = 0; k < m; ++k) local[d.rows[k]] = static_cast<std::int32_t>(k);
        if (own > 0) d.own_begin = local[starts[s]];
        d.own_end = d.own_begin + own;

        d.pattern.rows = d.pattern.cols = m;
        d.pattern.indptr.assign(static_cast<std::size_t>(m) + 1, 0);
        for (index k = 0; k < m; ++k) {
            const index i = d.rows[k];
            for (index p = a.indptr[i]; p < a.indptr[i + 1]; ++p) {
                if (local[a.indices[p]] < 0) continue;
                d.pattern.indices.push_back(local[a.indices[p]]);
                d.source.push_back(p);
            }
            d.pattern.indptr[k + 1] = d.pattern.nnz();
        }
        for (const std::int32_t i : d.rows) local[i] = -1;
    }
    return all;
}

}  // namespace aitken
