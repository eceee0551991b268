package bootstrap_test

import (
	"path/filepath"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// The binary that is installed on a host may be of a version that does not look whose node it is: it is not even started.
func TestANodeOfAnotherIsGivenNoOrder(t *testing.T) {
	t.Parallel()
	b, h, f := ready(t)
	h.Facts.Owner = plan.Owner{Node: "n2", ClusterID: "theirs"}
	job := testJob(t, f, "install")
	job.Order.Home = filepath.Join(f.home, ".mlxctl")
	job.Order.Settings.ClusterID = "ours"
	if _, err := b.Apply(t.Context(), h, job, nil); cluster.CodeOf(err) != cluster.CodeConflict {
		t.Errorf("installed over another cluster's: %v", err)
	}
	for _, order := range []plan.Order{
		{Action: plan.Stop, ClusterID: "ours"}, {Action: plan.Uninstall, Purge: true, Node: "n1", ClusterID: "theirs"},
	} {
		order.Home, order.Operator = job.Order.Home, "install"
		job.Order = order
		if r, err := b.Apply(t.Context(), h, job, nil); err != nil || r.Left == "" || r.Changed {
			t.Errorf("%s: %+v, %v", order.Action, r, err)
		}
	}
	if pid := recorded(t, job, "pid"); pid != "" {
		t.Error("the host's side ran")
	}
}
