// Batches of small constrained problems for Python. Records are arrays of the caller's (count x numbers,
// count x tags); what is where in them, batch_layout says.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "bindings/optimize_batch_convert.hpp"
#include "bindings/signals.hpp"
#include "core/api/optimize_batch.hpp"

namespace py = pybind11;
namespace api = aitken::optimize;
namespace cpu = aitken::cpu::optimize;

namespace {

using aitken::index;

template <class T>
using array = py::array_t<T, py::array::c_style>;
using aitken::bindings::to_batch_run;

void check(bool right, const char* name) {
    if (!right)
        throw std::invalid_argument(std::string("`") + name + "` does not have the shape of its partners");
}

template <class T>
bool has_shape(const array<T>& a, std::initializer_list<index> shape) {
    if (a.ndim() != static_cast<py::ssize_t>(shape.size())) return false;
    int k = 0;
    for (const index s : shape)
        if (a.shape(k++) != s) return false;
    return true;
}

api::batch_problems to_problems(array<double>& numbers, array<std::int32_t>& tags, int n, int m,
                                const array<double>& xl, const array<double>& xu, const array<double>& lower,
                                const array<double>& upper) {
    const api::batch_layout l = api::layout_of(n, m);
    const index count = numbers.ndim() == 2 ? numbers.shape(0) : -1;
    check(count >= 0 && has_shape(numbers, {count, l.numbers}), "numbers");
    check(has_shape(tags, {count, l.tags}), "tags");
    api::batch_problems p;
    p.count = count;
    p.n = n;
    p.m = m;
    check(xl.ndim() == 2 && (xl.shape(0) == 1 || xl.shape(0) == count) && has_shape(xl, {xl.shape(0), n}) &&
              has_shape(xu, {xl.shape(0), n}),
          "bounds");
    check(lower.ndim() == 2 && (lower.shape(0) == 1 || lower.shape(0) == count) &&
              has_shape(lower, {lower.shape(0), m}) && has_shape(upper, {lower.shape(0), m}),
          "lower");
    p.xl = xl.data();
    p.xu = xu.data();
    p.lower = lower.data();
    p.upper = upper.data();
    p.x_stride = xl.shape(0) == 1 ? 0 : n;
    p.c_stride = lower.shape(0) == 1 ? 0 : m;
    p.numbers = numbers.mutable_data();
    p.tags = tags.mutable_data();
    return p;
}

// The records of a batch and what its calls share.
class batch {
public:
    batch(array<double> numbers, array<std::int32_t> tags, int n, int m, array<double> xl, array<double> xu,
          array<double> lower, array<double> upper, const py::dict& options)
        : numbers_(std::move(numbers)),
          tags_(std::move(tags)),
          xl_(std::move(xl)),
          xu_(std::move(xu)),
          lower_(std::move(lower)),
          upper_(std::move(upper)),
          problems_(to_problems(numbers_, tags_, n, m, xl_, xu_, lower_, upper_)),
          options_(to_batch_run(options)) {}

    void begin(const array<double>& starts, const py::object& lam) {
        check(has_shape(starts, {problems_.count, problems_.n}), "X0");
        array<double> given;
        if (!lam.is_none()) given = py::cast<array<double>>(lam);
        check(lam.is_none() || has_shape(given, {problems_.count, problems_.m}), "lam0");
        const double* const l = lam.is_none() ? nullptr : given.data();
        const double* const x = starts.data();
        const py::gil_scoped_release release;
        cpu::batch_begin(problems_, x, l, options_);
    }
    array<double> points(const array<std::int32_t>& which) {
        array<double> out({index{which.size()}, index{problems_.n}});
        check_indices(which, problems_.count, "problem");
        double* const to = out.mutable_data();
        const std::int32_t* const from = which.data();
        const index count = which.size();
        const py::gil_scoped_release release;
        cpu::batch_points(problems_, from, count, to);
        return out;
    }
    py::tuple hessian_points(const array<std::int32_t>& which) {
        array<double> x({index{which.size()}, index{problems_.n}}),
            v({index{which.size()}, index{problems_.m}});
        check_indices(which, problems_.count, "problem");
        double *const to_x = x.mutable_data(), *const to_v = v.mutable_data();
        {
            const std::int32_t* const from = which.data();
            const index count = which.size();
            const py::gil_scoped_release release;
            cpu::batch_hessian_points(problems_, from, count, to_x, to_v);
        }
        return py::make_tuple(x, v);
    }
    array<std::uint8_t> judge(const array<std::int32_t>& which, const array<double>& f,
                              const array<double>& g, const array<double>& c, const array<double>& j) {
        array<std::uint8_t> next(which.size());
        const api::batch_values v = values(which, f, g, c, j);
        std::uint8_t* const to = next.mutable_data();
        aitken::interrupt signals = aitken::bindings::python_signals();
        {
            const py::gil_scoped_release release;
            cpu::batch_judge(problems_, v, options_, to, signals);
        }
        return next;
    }
    void direct(const array<std::int32_t>& which, const array<double>& f, const array<double>& g,
                const array<double>& c, const array<double>& j, const array<std::int32_t>& rows,
                const py::object& hessian, array<std::uint8_t>& next) {
        const api::batch_values v = values(which, f, g, c, j);
        check(next.size() == which.size(), "next");
        check_indices(rows, which.size(), "rows");
        array<double> h;
        if (!hessian.is_none()) {
            h = py::cast<array<double>>(hessian);
            check(has_shape(h, {index{rows.size()}, problems_.n, problems_.n}), "hessian");
        }
        const double* const from = hessian.is_none() ? nullptr : h.data();
        std::uint8_t* const to = next.mutable_data();
        const std::int32_t* const listed = rows.data();
        const index count = rows.size();
        aitken::interrupt signals = aitken::bindings::python_signals();
        const py::gil_scoped_release release;
        cpu::batch_direct(problems_, v, listed, count, from, options_, to, signals);
    }
    void conclude(const array<std::int32_t>& which, const array<double>& f, const array<double>& g,
                  const array<double>& c, const array<double>& j, int status_of_others) {
        const api::batch_values v = values(which, f, g, c, j);
        const py::gil_scoped_release release;
        cpu::batch_conclude(problems_, v, options_, status_of_others);
    }

private:
    static void check_indices(const array<std::int32_t>& a, index limit, const char* name) {
        const std::int32_t* const v = a.data();
        for (index k = 0; k < a.size(); ++k)
            if (v[k] < 0 || v[k] >= limit)
                throw std::invalid_argument(std::string("`") + name + "` has an index out of range");
    }
    api::batch_values values(const array<std::int32_t>& which, const array<double>& f, const array<double>& g,
                             const array<double>& c, const array<double>& j) const {
        const index count = which.size();
        check_indices(which, problems_.count, "problem");
        check(has_shape(f, {count}), "fun");
        check(has_shape(g, {count, problems_.n}), "jac");
        check(has_shape(c, {count, problems_.m}), "cons");
        check(has_shape(j, {count, problems_.m, problems_.n}), "cons_jac");
        return {count, which.data(), f.data(), g.data(), c.data(), j.data()};
    }

    array<double> numbers_;
    array<std::int32_t> tags_;
    array<double> xl_, xu_, lower_, upper_;
    api::batch_problems problems_;
    api::batch_options options_;
};

py::tuple solve_kkt(const array<double>& h, const array<double>& d, const array<double>& j,
                    const array<double>& sigma, const array<double>& rx, const array<double>& rc,
                    const array<double>& rs, const array<double>& shift, const array<double>& regular,
                    double xi, int n_threads) {
    check(h.ndim() == 3 && j.ndim() == 3, "h");
    const index count = h.shape(0), n = h.shape(1), m = j.shape(1);
    check(has_shape(h, {count, n, n}) && has_shape(j, {count, m, n}), "h");
    check(has_shape(d, {count, n}) && has_shape(sigma, {count, m}), "d");
    check(has_shape(rx, {count, n}) && has_shape(rc, {count, m}) && has_shape(rs, {count, m}), "rx");
    check(has_shape(shift, {count}) && has_shape(regular, {count}), "shift");
    array<double> dx({count, n}), dlam({count, m}), t(count), r(count);
    array<std::int32_t> attempts(count);
    std::copy_n(shift.data(), count, t.mutable_data());
    std::copy_n(regular.data(), count, r.mutable_data());
    const api::kkt_systems k{count,
                             static_cast<int>(n),
                             static_cast<int>(m),
                             h.data(),
                             d.data(),
                             j.data(),
                             sigma.data(),
                             rx.data(),
                             rc.data(),
                             rs.data(),
                             dx.mutable_data(),
                             dlam.mutable_data(),
                             t.mutable_data(),
                             r.mutable_data(),
                             attempts.mutable_data()};
    {
        const py::gil_scoped_release release;
        cpu::solve_kkt(k, xi, n_threads);
    }
    return py::make_tuple(dx, dlam, t, r, attempts);
}

py::tuple solve_symmetric(const array<double>& a, const array<double>& b, int n_threads) {
    check(a.ndim() == 3, "a");
    const index count = a.shape(0), n = a.shape(1);
    check(has_shape(a, {count, n, n}), "a");
    check(has_shape(b, {count, n}), "b");
    array<double> x({count, n});
    array<std::int32_t> inertia({count, index{3}});
    std::copy_n(b.data(), count * n, x.mutable_data());
    const double* const from = a.data();
    double* const to = x.mutable_data();
    std::int32_t* const signs = inertia.mutable_data();
    {
        const py::gil_scoped_release release;
        cpu::solve_symmetric(count, static_cast<int>(n), from, to, signs, n_threads);
    }
    return py::make_tuple(x, inertia);
}

}  // namespace

void bind_optimize_batch(py::module_& m) {
    using py::arg;
    m.def(
        "batch_layout", [](int n, int rows) { return aitken::bindings::to_dict(api::layout_of(n, rows)); },
        arg("n"), arg("m"), "Where a problem's answer is in its records.");
    py::class_<batch>(m, "BatchNewton")
        .def(py::init<array<double>, array<std::int32_t>, int, int, array<double>, array<double>,
                      array<double>, array<double>, const py::dict&>(),
             arg("numbers").noconvert(), arg("tags").noconvert(), arg("n"), arg("m"), arg("xl").noconvert(),
             arg("xu").noconvert(), arg("lower").noconvert(), arg("upper").noconvert(), arg("options"))
        .def("begin", &batch::begin, arg("starts").noconvert(), arg("lam").none(true))
        .def("points", &batch::points, arg("problem").noconvert())
        .def("hessian_points", &batch::hessian_points, arg("problem").noconvert())
        .def("judge", &batch::judge, arg("problem").noconvert(), arg("f").noconvert(), arg("g").noconvert(),
             arg("c").noconvert(), arg("j").noconvert())
        .def("direct", &batch::direct, arg("problem").noconvert(), arg("f").noconvert(), arg("g").noconvert(),
             arg("c").noconvert(), arg("j").noconvert(), arg("rows").noconvert(), arg("hessian").none(true),
             arg("next").noconvert())
        .def("conclude", &batch::conclude, arg("problem").noconvert(), arg("f").noconvert(),
             arg("g").noconvert(), arg("c").noconvert(), arg("j").noconvert(), arg("status_of_others"));
    m.def("solve_kkt_batch", &solve_kkt, arg("h").noconvert(), arg("d").noconvert(), arg("j").noconvert(),
          arg("sigma").noconvert(), arg("rx").noconvert(), arg("rc").noconvert(), arg("rs").noconvert(),
          arg("shift").noconvert(), arg("regular").noconvert(), arg("xi"), arg("n_threads"),
          "(dx, dlam, shift, regular, attempts) of many KKT systems; attempts < 0 where no shift did.");
    m.def("solve_symmetric_batch", &solve_symmetric, arg("a").noconvert(), arg("b").noconvert(),
          arg("n_threads"), "(x, inertia) of many symmetric systems, from their lower triangles.");
}
