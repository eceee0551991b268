package cluster_test

import (
	"slices"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func numbers(from, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = from + i
	}
	return out
}

func TestPrefixChainCountsWholeBlocks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ tokens, most, want int }{
		{0, 9, 0}, {255, 9, 0}, {256, 9, 1}, {511, 9, 1}, {512, 9, 2}, {2560, 3, 3}, {2560, 0, 0}, {2560, -1, 0},
	} {
		if got := cluster.PrefixChain(numbers(0, c.tokens), c.most); len(got) != c.want {
			t.Errorf("%d tokens, at most %d: %d digests, want %d", c.tokens, c.most, len(got), c.want)
		}
	}
}

func TestPrefixChainDependsOnAllThatIsBefore(t *testing.T) {
	t.Parallel()
	whole := cluster.PrefixChain(numbers(0, 1024), 9)
	longer := cluster.PrefixChain(numbers(0, 1100), 9)
	if !slices.Equal(whole, longer) {
		t.Errorf("the chain changes with what is behind it: %v, %v", whole, longer)
	}
	changed := numbers(0, 1024)
	changed[300]++
	other := cluster.PrefixChain(changed, 9)
	for i, same := range []bool{true, false, false, false} {
		if (whole[i] == other[i]) != same {
			t.Errorf("block %d: %s and %s, want the same: %v", i, whole[i], other[i], same)
		}
	}
}

func TestReplicaCachedTokens(t *testing.T) {
	t.Parallel()
	chain := cluster.PrefixChain(numbers(0, 1024), 9)
	for _, c := range []struct {
		known []string
		want  int
	}{
		{nil, 0},
		{[]string{"0011223344556677"}, 0},
		{chain[:1], 256},
		{[]string{"0011223344556677", chain[1], chain[0]}, 512},
		{chain[3:], 1024}, // of what can only be used whole a worker tells no more than its end
	} {
		r := cluster.Replica{Prefixes: c.known}
		if got := r.CachedTokens(chain); got != c.want {
			t.Errorf("%v: %d tokens, want %d", c.known, got, c.want)
		}
	}
	if got := (&cluster.Replica{Prefixes: chain}).CachedTokens(nil); got != 0 {
		t.Errorf("a request without a whole block: %d tokens", got)
	}
}
