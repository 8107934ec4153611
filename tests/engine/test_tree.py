import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.tree import TokenTree


@st.composite
def trees(draw: st.DrawFn) -> TokenTree:
    tree = TokenTree.root(draw(st.integers(0, 9)))
    for _ in range(draw(st.integers(0, 40))):
        parent = draw(st.integers(0, len(tree) - 1))
        tree.add(parent, draw(st.integers(0, 9)), draw(st.floats(0.01, 1.0)))
    return tree


def path_of(tree: TokenTree, node: int) -> tuple[int, ...]:
    return () if node == 0 else (*path_of(tree, tree.parents[node]), tree.tokens[node])


def test_a_token_proposed_twice_after_one_node_is_one_node_with_the_higher_score():
    tree = TokenTree.root(7)
    first = tree.add(0, 3, 0.2)
    assert tree.add(0, 3, 0.9) == first
    assert len(tree) == 2
    assert tree.scores[first] == pytest.approx(0.9)


@pytest.mark.parametrize("probability", [0.0, -0.5, 1.5])
def test_a_probability_outside_zero_to_one_is_refused(probability: float):
    with pytest.raises(ValueError, match="probability"):
        TokenTree.root(0).add(0, 1, probability)


@given(trees())
def test_parents_precede_children_and_depths_count_the_way_to_the_root(tree: TokenTree):
    for node in range(1, len(tree)):
        assert tree.parents[node] < node
        assert tree.depths[node] == len(path_of(tree, node))
        assert tree.child(tree.parents[node], tree.tokens[node]) == node


@given(trees(), st.integers(0, 50))
def test_pruning_keeps_a_tree_of_the_most_probable_paths(tree: TokenTree, size: int):
    pruned = tree.best(size)
    assert len(pruned) == 1 + min(size, len(tree) - 1)
    paths = {path_of(tree, node): tree.scores[node] for node in range(1, len(tree))}
    kept = {path_of(pruned, node): pruned.scores[node] for node in range(1, len(pruned))}
    assert kept.keys() <= paths.keys()
    assert all(score == pytest.approx(paths[path]) for path, score in kept.items())
    dropped = paths.keys() - kept.keys()
    assert max((paths[p] for p in dropped), default=0) <= min(kept.values(), default=1) + 1e-9
