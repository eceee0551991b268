package cmd

import (
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// newCluster makes a network whose one Mac, mini, is a node.
func newCluster(t *testing.T) (*fakeNet, *fakeMac) {
	t.Helper()
	f := newFakeNet(t)
	m := f.mac("mini")
	m.hardware = "hw-mini"
	wants(t, "up", f.run("", "up", "--yes"), 0, "2 nodes serve")
	return f, m
}

// former puts an entry of mini into the list that it had under an earlier id.
func (f *fakeNet) former(key string) roster.Node {
	n := f.admitted[0]
	n.ID, n.Key = "n-former", key
	f.admitted = append(f.admitted, n)
	f.setNode(&fakeMac{node: n.ID}, "", cluster.NodeDown)
	return n
}

// userKey is a public key that can be signed.
func userKey(t *testing.T) string {
	t.Helper()
	key, _, err := trust.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestADeadEntryIsRemovedAndTheLiveNodeOfItsHostStays(t *testing.T) {
	t.Parallel()
	f, m := newCluster(t)
	old := f.former(userKey(t))
	r := f.run("", "nodes", "rm", string(old.ID), "--yes")
	wants(t, "rm", r, 0, "mini: what is there is left as it is: the node there is another one, n-mini")
	if m.installed == "" || !m.runs || !f.isRevoked(old.Key) || f.isRevoked(m.key) {
		t.Errorf("%+v; keys revoked: former %v, own %v", m, f.isRevoked(old.Key), f.isRevoked(m.key))
	}
	if len(f.admitted) != 1 || f.admitted[0].ID != "n-mini" {
		t.Errorf("%+v", f.admitted)
	}
}

func TestANodeOfAnotherClusterIsNotStoppedNorRemoved(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"down": {"down"}, "purge": {"down", "--purge", "--yes"}, "rm": {"nodes", "rm", "mini", "--yes"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, m := newCluster(t)
			m.clusterID = "another-cluster"
			f.setNode(m, "", cluster.NodeDown)
			r := f.run("", args...)
			wants(t, name, r, 0, "mini: what is there is left as it is: it is a node of another cluster (attic, controller at 192.0.2.99:8660, id another-)")
			if m.installed == "" || !m.runs || strings.Contains(r.out+r.err, "machines stopped") {
				t.Errorf("%+v\n%s%s", m, r.out, r.err)
			}
		})
	}
}
