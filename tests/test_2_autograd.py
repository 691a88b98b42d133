"""2. Autograd: each derivative is compared with a slope that is measured."""

import copy
import inspect
import math
import operator
import pickle
import random
import types

import pytest
from helpers import check_slopes, slope, values
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import microgpt
from microgpt import Value, dot, recording

ordinary = st.floats(-3, 3).filter(lambda x: abs(x) > 0.1)
positive = st.floats(0.1, 3)
any_float = st.floats(allow_nan=False, allow_infinity=False)
pairs_of_vectors = st.integers(1, 9).flatmap(
    lambda n: st.tuples(*[st.lists(ordinary, min_size=n, max_size=n)] * 2)
)


def close(a, b, tolerance=1e-6):
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


# ---- one operation at a time ---------------------------------------------------------

UNARY = {
    "neg": (operator.neg, ordinary),
    "exp": (lambda a: a.exp() if isinstance(a, Value) else math.exp(a), ordinary),
    "log": (lambda a: a.log() if isinstance(a, Value) else math.log(a), positive),
    "relu": (lambda a: a.relu() if isinstance(a, Value) else max(a, 0.0), ordinary),
    "square": (lambda a: a**2, ordinary),
    "cube": (lambda a: a**3, ordinary),
    "root": (lambda a: a**0.5, positive),
    "inverse": (lambda a: a**-1, ordinary),
    "power -1.5": (lambda a: a**-1.5, positive),
    "power 0": (lambda a: a**0, ordinary),
    "number + a": (lambda a: 2 + a, ordinary),
    "number - a": (lambda a: 2 - a, ordinary),
    "number * a": (lambda a: 2 * a, ordinary),
    "number / a": (lambda a: 2 / a, ordinary),
    "a + number": (lambda a: a + 2, ordinary),
    "a - number": (lambda a: a - 2, ordinary),
    "a * number": (lambda a: a * 2, ordinary),
    "a / number": (lambda a: a / 2, ordinary),
}
BINARY = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


@pytest.mark.parametrize("name", UNARY)
@given(data=st.data())
def test_an_operation_on_one_value_has_the_right_result_and_slope(name, data):
    f, domain = UNARY[name]
    x = data.draw(domain)
    a = Value(x)
    y = f(a)
    y.backward()
    assert y.data == pytest.approx(f(x), rel=1e-14)
    assert close(a.grad, slope(f, x, 1e-3), 1e-5)


@pytest.mark.parametrize("name", BINARY)
@given(x=ordinary, y=ordinary)
def test_an_operation_on_two_values_has_the_right_result_and_slopes(name, x, y):
    f, a, b = BINARY[name], Value(x), Value(y)
    result = f(a, b)
    result.backward()
    assert result.data == pytest.approx(f(x, y), rel=1e-14)
    assert close(a.grad, slope(lambda t: f(t, y), x, 1e-3), 1e-5)
    assert close(b.grad, slope(lambda t: f(x, t), y, 1e-3), 1e-5)


@given(x=any_float, y=any_float)
def test_sums_and_products_of_any_floats_are_those_of_python(x, y):
    assert (Value(x) + Value(y)).data == x + y
    assert (Value(x) - Value(y)).data == x - y
    assert (Value(x) * Value(y)).data == x * y
    a, b = Value(x), Value(y)
    (a * b).backward()
    assert (a.grad, b.grad) == (y, x)


# ---- edge cases ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "f, x, result, grad",
    [
        (Value.relu, 0.0, 0.0, 0.0),  # at 0 we take the slope of the left side
        (Value.relu, -0.0, 0.0, 0.0),
        (Value.relu, 5e-324, 5e-324, 1.0),
        (Value.relu, math.inf, math.inf, 1.0),
        (Value.relu, -math.inf, 0.0, 0.0),
        (Value.exp, -1e300, 0.0, 0.0),
        (Value.exp, -math.inf, 0.0, 0.0),
        (Value.log, math.inf, math.inf, 0.0),
        (Value.log, 5e-324, math.log(5e-324), math.inf),
        (lambda a: a**0, -2.0, 1.0, 0.0),
        (lambda a: a**1, 0.0, 0.0, 1.0),
        (lambda a: a**2, 0.0, 0.0, 0.0),
        (lambda a: a**2, -1e-200, 0.0, -2e-200),
        (lambda a: a**3, -2.0, -8.0, 12.0),
        (lambda a: a**-1, math.inf, 0.0, 0.0),
        (lambda a: a * 0, 1e308, 0.0, 0.0),
        (lambda a: a * a, 1e200, math.inf, 2e200),
        (lambda a: dot([a, a], [a, a]), 1e200, math.inf, 4e200),
    ],
)
def test_edge_cases_have_the_right_result_and_slope(f, x, result, grad):
    a = Value(x)
    y = f(a)
    y.backward()
    assert (y.data, a.grad) == (result, grad)


@pytest.mark.parametrize(
    "f, x, error",
    [
        (Value.log, 0.0, ValueError),
        (Value.log, -1.0, ValueError),
        (Value.exp, 1000.0, OverflowError),
        (lambda a: 1 / a, 0.0, ZeroDivisionError),
        (lambda a: a**-1, 0.0, ZeroDivisionError),
        (lambda a: a**0.5, -8.0, TypeError),  # the result is a complex number
        (lambda a: a**2.5, 1e200, OverflowError),
    ],
)
def test_what_python_refuses_for_floats_is_refused_for_values(f, x, error):
    with pytest.raises(error):
        f(Value(x))


@pytest.mark.parametrize(
    "f",
    [
        Value.relu,  # max(0.0, nan) would be 0.0 and hide that training has diverged
        Value.exp,
        Value.log,
        lambda a: a**2,
        lambda a: a + 1,
        lambda a: a * 0,
        lambda a: dot([Value(1.0), a], [Value(1.0), Value(0.0)]),
    ],
)
def test_nan_passes_through_every_operation(f):
    assert math.isnan(f(Value(math.nan)).data)


@pytest.mark.parametrize("exponent", [Value(2.0), "2", None, [2]])
def test_an_exponent_must_be_a_number(exponent):
    with pytest.raises(TypeError):
        Value(2.0) ** exponent


def test_a_value_cannot_be_the_exponent_of_a_number():
    with pytest.raises(TypeError):
        2 ** Value(2.0)


NO_NUMBERS = [None, [2.0], 2j, "two", ""]


@pytest.mark.parametrize("thing", [*NO_NUMBERS, Value(2.0)])
def test_a_value_cannot_hold_what_is_not_a_number(thing):
    with pytest.raises((TypeError, ValueError)):
        Value(thing)


@pytest.mark.parametrize("f", list(BINARY.values()))
@pytest.mark.parametrize("thing", NO_NUMBERS)
def test_an_operand_on_either_side_must_be_a_number(f, thing):
    with pytest.raises((TypeError, ValueError)):
        f(Value(2.0), thing)
    with pytest.raises((TypeError, ValueError)):
        f(thing, Value(2.0))


@pytest.mark.parametrize("number", [3, True, 3.0])
def test_every_real_number_becomes_a_float(number):
    assert type(Value(number).data) is float
    assert Value(number).data == number


def test_a_value_prints_its_number_and_its_gradient():
    assert repr(Value(2)) == "Value(data=2.0, grad=0.0)"


# ---- the dot product -----------------------------------------------------------------


@given(pairs_of_vectors)
def test_a_dot_product_equals_the_sum_of_the_products(pair):
    xs, ws = pair
    x, w = values(xs), values(ws)
    one_node = dot(x, w)
    (one_node * 3).backward()
    x2, w2 = values(xs), values(ws)
    many_nodes = sum(a * b for a, b in zip(x2, w2))
    (many_nodes * 3).backward()
    assert one_node.data == pytest.approx(many_nodes.data, rel=1e-13, abs=1e-13)
    assert [v.grad for v in x + w] == pytest.approx([v.grad for v in x2 + w2])


@given(pairs_of_vectors)
def test_a_dot_product_has_the_slopes_that_are_measured(pair):
    numbers, n = pair[0] + pair[1], len(pair[0])
    check_slopes(lambda both: dot(both[:n], both[n:]), numbers)


def test_a_dot_product_is_one_value_with_two_children_for_each_product():
    x, w = values([1, 2, 3]), values([4, 5, 6])
    y = dot(x, w)
    assert type(y) is Value
    assert y.data == 32
    assert list(y._children) == [*x, *w]
    assert list(y._local_grads) == [4, 5, 6, 1, 2, 3]


def test_a_dot_product_of_a_vector_with_itself_counts_both_factors():
    x = values([3, 4])
    dot(x, x).backward()
    assert [v.grad for v in x] == [6.0, 8.0]


@pytest.mark.parametrize("n, m", [(2, 3), (3, 2), (0, 1), (17, 1)])
def test_vectors_of_unequal_length_have_no_dot_product(n, m):
    with pytest.raises(ValueError, match=rf"\b{n}\b.*\b{m}\b"):
        dot(values([1.0] * n), values([1.0] * m))


def test_the_dot_product_of_empty_vectors_is_zero():
    assert dot([], []).data == 0.0


def test_lists_that_change_after_the_dot_product_do_no_harm():
    x, w = values([1, 2]), values([3, 4])
    y = dot(x, w)
    leaves = [*x, *w]
    x.append(Value(100.0))
    w.clear()
    y.backward()
    assert [v.grad for v in leaves] == [3.0, 4.0, 1.0, 2.0]


# ---- whole graphs --------------------------------------------------------------------


def test_an_example_that_can_be_computed_by_hand():
    a, b = Value(2.0), Value(-3.0)
    c = a * b + a**2  # dc/da = b + 2 a = 1, dc/db = a = 2
    c.backward()
    assert (c.data, a.grad, b.grad) == (-2.0, 1.0, 2.0)


def test_a_value_that_is_used_twice_receives_the_sum():
    a = Value(3.0)
    (a + a).backward()
    assert a.grad == 2.0


def random_expression(rng, leaves, size):
    """A random graph over the leaves in which results are used again."""
    nodes = list(leaves)
    for _ in range(size):
        a, b = rng.choice(nodes), rng.choice(nodes)
        nodes.append(
            rng.choice(
                [
                    lambda a, b: a + b,
                    lambda a, b: a - b,
                    lambda a, b: a * b * 0.5,
                    lambda a, b: a / (b * b + 1),
                    lambda a, b: (a * a + 1) ** -0.5,
                    lambda a, b: (-(a * a)).exp() + b,
                    lambda a, b: (b * b + 1).log() - a,
                    lambda a, b: 1 - (a - 0.3).relu(),
                    lambda a, b: 2 / (a * a + 3),
                    lambda a, b: dot([a, b, a], [b, b, a]) * 0.2,
                ]
            )(a, b)
        )
    return sum(nodes)


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@example(seed=14929, x=[1.0, 1.0, 1.0])
@given(seed=st.integers(0, 10**9), x=st.lists(ordinary, min_size=3, max_size=3))
def test_random_expressions_have_the_slopes_that_are_measured(seed, x):
    def f(*numbers):
        leaves = values(numbers)
        return random_expression(random.Random(seed), leaves, 12), leaves

    y, leaves = f(*x)
    assume(abs(y.data) < 1e3)
    y.backward()
    for i, leaf in enumerate(leaves):
        h = 1e-4

        def moved(t, i=i):
            return f(*x[:i], t, *x[i + 1 :])[0].data

        def bend(h, moved=moved, at=x[i]):
            return (moved(at + h) - 2 * moved(at) + moved(at - h)) / h

        measured, coarser = slope(moved, x[i], h), slope(moved, x[i], 2 * h)
        assume(close(measured, coarser, 1e-8))  # no relu is near its kink
        assume(abs(bend(2 * h) - 2 * bend(h)) < 1e-7)  # or exactly at it
        assert close(leaf.grad, measured, 1e-6)


def test_every_new_value_starts_with_a_gradient_of_zero():
    a = Value(2.0)
    for new in (a, a + 1, a * a, a.exp(), dot([a], [a])):
        assert new.grad == 0.0


def test_an_operation_may_have_any_number_of_children():
    leaves = values(range(5))
    Value(10.0, leaves, [0.0, 1.0, 2.0, 3.0, 4.0]).backward()
    assert [leaf.grad for leaf in leaves] == [0.0, 1.0, 2.0, 3.0, 4.0]


# ---- copies --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))]
)
def test_a_graph_can_be_copied_and_pickled_with_its_gradients(duplicate):
    x, w = values([2, -3]), values([5, 7])
    y = dot(x, w).exp() * x[0] + w[1].relu() / 3
    y.backward()
    x2, w2, y2 = duplicate((x, w, y))
    leaves, copies = x + w, x2 + w2
    assert y2.data == y.data
    assert [v.grad for v in copies] == [v.grad for v in leaves]
    for v in copies:
        v.grad = 0.0
    before = [v.grad for v in leaves]
    y2.backward()
    assert [v.grad for v in copies] == [v.grad for v in leaves] == before
    assert not set(copies) & set(leaves)


def test_a_shallow_copy_of_a_value_refers_to_the_same_children():
    a = Value(3.0)
    y = copy.copy(a * a)
    y.backward()
    assert (y.data, a.grad) == (9.0, 6.0)


# ---- the order of the backward pass, and calling it twice ----------------------------


def test_a_chain_of_200000_operations_has_a_backward_pass():
    a = Value(1.0)
    y = a
    for _ in range(200_000):
        y = y + 5e-6
    y.backward()
    assert a.grad == 1.0
    assert y.data == pytest.approx(2.0)


def test_each_node_of_a_graph_with_many_paths_is_visited_once():
    a = Value(1.0)
    y = a
    for _ in range(40):
        y = y + y  # a million million paths lead from here to a
    y.backward()
    assert a.grad == 2.0**40


@pytest.mark.parametrize("short_path_first", [True, False])
def test_a_node_waits_for_uses_that_are_reached_by_a_longer_path(short_path_first):
    a = Value(3.0)
    shared = a * a
    longer = shared
    for _ in range(5):
        longer = longer * 2
    y = shared + longer if short_path_first else longer + shared
    y.backward()
    assert shared.grad == 33.0
    assert a.grad == 6 * 33.0


def test_the_backward_pass_of_a_deep_and_wide_graph_is_right():
    rng = random.Random(1)
    leaves = values(rng.gauss(0, 1) for _ in range(12))
    layers = [[[rng.gauss(0, 0.3) for _ in leaves] for _ in leaves] for _ in range(40)]
    x = leaves
    for matrix in layers:
        x = [dot(x, values(row)) for row in matrix]
    sum(x).backward()
    expected = [1.0] * len(leaves)  # from the last layer to the first, by hand
    for matrix in reversed(layers):
        expected = [
            sum(row[i] * grad for row, grad in zip(matrix, expected))
            for i in range(len(leaves))
        ]
    assert [leaf.grad for leaf in leaves] == pytest.approx(expected, rel=1e-9)


def test_calling_backward_twice_accumulates_in_the_leaves_only():
    a = Value(3.0)
    b = a * a
    c = b * 2
    c.backward()
    assert (a.grad, b.grad, c.grad) == (12.0, 2.0, 1.0)
    c.backward()
    assert (a.grad, b.grad, c.grad) == (24.0, 2.0, 1.0)  # 36 if b's were counted again


def test_the_gradients_of_two_losses_that_share_a_graph_add_up():
    a = Value(3.0)
    shared = a * a
    one, two = shared * 2, shared * 5
    one.backward()
    two.backward()
    assert a.grad == 6 * (2 + 5)


def test_the_derivative_of_a_leaf_with_respect_to_itself_is_one():
    a = Value(3.0)
    a.backward()
    assert a.grad == 1.0


def test_backward_from_a_part_of_a_graph_does_not_touch_the_rest():
    a, b = Value(2.0), Value(5.0)
    part = a * 3
    whole = part * b
    part.backward()
    assert (a.grad, b.grad, whole.grad) == (3.0, 0.0, 0.0)


def test_a_gradient_of_zero_does_not_turn_an_infinite_slope_into_nan():
    a = Value(5e-324)
    (a.log() * 0.0).backward()
    assert a.grad == 0.0


# ---- the tape ------------------------------------------------------------------------


def recorded(f):
    """The result of f(), and the operations that were recorded in it."""
    with recording() as tape:
        return f(), tape


def test_with_a_tape_the_gradients_are_the_same_but_for_rounding():
    def gradients(use_tape):
        leaves = values([0.5, -1.5, 2.5])
        y, tape = recorded(lambda: random_expression(random.Random(7), leaves, 30))
        y.backward(tape if use_tape else ())
        return [leaf.grad for leaf in leaves]

    assert gradients(True) == pytest.approx(gradients(False), rel=1e-12)


def test_a_tape_lists_the_operations_in_order_and_no_leaves():
    a, b = Value(2.0), Value(3.0)
    (c, d, e), tape = recorded(lambda: (a * b, dot([a], [b]), a + 1))
    assert tape == [c, d, e]


def test_operations_that_come_later_on_the_tape_have_no_influence():
    a = Value(2.0)
    (y, later), tape = recorded(lambda: (a * 3, a * 5))
    later.grad = 7.0  # left over from playing
    y.backward(tape)
    assert (a.grad, y.grad, later.grad) == (3.0, 1.0, 0.0)


def test_backward_twice_with_a_tape_accumulates_in_the_leaves_only():
    a = Value(3.0)
    (b, c), tape = recorded(lambda: (lambda b: (b, b * 2))(a * a))
    c.backward(tape)
    c.backward(tape)
    assert (a.grad, b.grad, c.grad) == (24.0, 2.0, 1.0)


def test_after_the_import_nothing_is_recorded():
    assert Value.tape is None


# ---- the class on a slide ------------------------------------------------------------


def test_the_class_works_when_it_is_copied_alone_with_one_import():
    slide = types.ModuleType("slide")
    exec("import math\n" + inspect.getsource(Value), vars(slide))
    a = slide.Value(2.0)
    y = (a.exp() * a + 1 / a - a.log() + a.relu() ** 2 - -a) / 2
    y.backward()
    assert y.data == pytest.approx((2 * math.exp(2) + 0.5 - math.log(2) + 6) / 2)
    assert a.grad == pytest.approx((3 * math.exp(2) - 0.25 - 0.5 + 4 + 1) / 2)


def test_the_attributes_have_the_names_that_the_field_knows():
    assert Value.__slots__ == ("data", "grad", "_children", "_local_grads")
    assert not hasattr(Value(1.0), "__dict__")
    assert not hasattr(microgpt.dot([Value(1.0)], [Value(1.0)]), "__dict__")
