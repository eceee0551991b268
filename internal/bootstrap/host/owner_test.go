package host

import (
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Who gives orders for another node, or for a node of another cluster, ends nothing that runs and takes nothing away.
func TestANodeOfAnotherIsLeftAsItIs(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	v := n.binary("v1")
	order := n.order(v)
	order.Settings.Cluster, order.Settings.ClusterID, order.Settings.URLs = "attic", "attic-id", []string{"tls://192.0.2.1:8660"}
	if out := n.run(operator{user: "k"}, order, nil); out.done.Error != nil {
		t.Fatalf("install: %+v", out.done.Error)
	}
	n.await(v)
	_, pid := n.runs()
	before := n.files()
	for name, o := range map[string]plan.Order{
		"another node":                {Node: "node-of-before"},
		"another node of the cluster": {Node: "node-of-before", ClusterID: "attic-id"},
		"another cluster":             {ClusterID: "cellar-id"},
		"its node in another cluster": {Node: "node-of-tests", ClusterID: "cellar-id"},
	} {
		for _, action := range []plan.Action{plan.Stop, plan.Uninstall} {
			o.Action, o.Home, o.Version, o.Purge = action, n.home, v, action == plan.Uninstall
			out := n.run(operator{}, o, nil)
			if out.done.Error != nil || out.done.Left == "" || out.done.Changed {
				t.Errorf("%s of %s: %+v", action, name, out.done)
			}
			if o.ClusterID == "cellar-id" && !strings.Contains(out.done.Left, "another cluster (attic, controller at 192.0.2.1:8660, id attic-id)") {
				t.Errorf("%s of %s says %q", action, name, out.done.Left)
			}
		}
	}
	thief := order
	thief.Settings.ClusterID = "cellar-id"
	if out := n.run(operator{user: "k"}, thief, nil); cluster.CodeOf(out.done.Error) != cluster.CodeConflict || !strings.Contains(out.done.Error.Hint, "--take-over") {
		t.Errorf("installed over another cluster's: %+v", out.done)
	}
	if version, now := n.runs(); version != v || now != pid {
		t.Errorf("%q runs as %d, before as %d", version, now, pid)
	}
	if after := n.files(); len(after) != len(before) || after["node.json"] != before["node.json"] {
		t.Errorf("files are %v, before %v", after, before)
	}
	thief.TakeOver = true
	if out := n.run(operator{user: "k"}, thief, nil); out.done.Error != nil {
		t.Errorf("taken over: %+v", out.done.Error)
	}
	out := n.run(operator{}, plan.Order{Action: plan.Uninstall, Home: n.home, Version: v, Node: "node-of-tests", ClusterID: "cellar-id"}, nil)
	if out.done.Error != nil || out.done.Left != "" || !out.done.Changed {
		t.Errorf("its own: %+v", out.done)
	}
	if out := n.run(operator{user: "k"}, order, nil); out.done.Error != nil {
		t.Errorf("one that was given back is still another cluster's: %+v", out.done.Error)
	}
	n.purged(v)
}
