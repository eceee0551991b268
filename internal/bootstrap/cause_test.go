package bootstrap_test

import (
	"slices"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// What is left out of a list stays in the list that was given.
func TestOneCauseLeavesItsListAsItIs(t *testing.T) {
	t.Parallel()
	given := []plan.Finding{
		bootstrap.Reversed("mini"), {Check: bootstrap.CheckSudo, Message: "no sudo: the controller dials it"}, {Check: bootstrap.CheckFacts},
	}
	before := slices.Clone(given)
	got := bootstrap.OneCause(given)
	if len(got) != 2 || got[0].Check != bootstrap.CheckSudo || got[1].Check != bootstrap.CheckFacts {
		t.Errorf("it leaves %+v", got)
	}
	if !slices.EqualFunc(given, before, func(a, b plan.Finding) bool { return a.Check == b.Check && a.Message == b.Message }) {
		t.Errorf("its list is %+v", given)
	}
}
