package cmd

import (
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
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
	for name, args := range map[string][]string{"down": {"down", "--yes"}, "purge": {"down", "--purge", "--yes"}, "rm": {"nodes", "rm", "mini", "--yes"}} {
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

func TestANodeOfAnotherClusterIsTakenOverOnlyWhereThatIsSaid(t *testing.T) {
	t.Parallel()
	const says = "is a node of another cluster (attic, controller at 192.0.2.99:8660, id another-)"
	theirs := func(isOurs bool) (*fakeNet, *fakeMac) {
		if isOurs {
			f, m := newCluster(t)
			m.clusterID = "another-cluster"
			f.setNode(m, "", cluster.NodeDown)
			return f, m
		}
		f := newFakeNet(t)
		m := f.mac("mini")
		m.installed, m.clusterID, m.runs = newVersion9, "another-cluster", true
		return f, m
	}
	for name, c := range map[string]struct {
		isOurs   bool // it is in this cluster's list
		answers  string
		args     []string
		code     int
		isTaken  bool
		says     string
		saysNot  string
		keyIsNew bool
	}{
		"seen by Bonjour":          {args: []string{"up", "--yes"}, says: "`mlxctl up mini.local --take-over`"},
		"dry run":                  {args: []string{"up", "--dry-run"}, says: "`mlxctl up mini.local --take-over`"},
		"named":                    {args: []string{"up", "mini.local", "--yes"}, code: exitFailed, says: "`mlxctl up mini.local --take-over`"},
		"named, by nodes add":      {args: []string{"nodes", "add", "mini.local", "--yes"}, code: exitFailed},
		"with the flag":            {args: []string{"up", "mini.local", "--yes", "--take-over"}, isTaken: true},
		"with the flag, add":       {args: []string{"nodes", "add", "mini.local", "--yes", "--take-over"}, isTaken: true},
		"no to its question":       {answers: "n\n", args: []string{"up"}, says: "Take over mini, which " + says + "?", saysNot: "Do this"},
		"yes to its question":      {answers: "y\n", args: []string{"up"}, isTaken: true, saysNot: "Do this"},
		"the flag, and a question": {answers: "y\n", args: []string{"up", "mini.local", "--take-over"}, isTaken: true, says: "Do this: take over 1?", saysNot: "Take over mini"},
		"its key is new":           {answers: "y\nn\n", args: []string{"up"}, keyIsNew: true, says: "Take over mini"},
		"its key is new, yes":      {args: []string{"up", "--yes"}, keyIsNew: true},
		"lost to another":          {isOurs: true, args: []string{"up", "--yes"}, code: exitFailed, says: "`mlxctl nodes rm n-mini`"},
		"taken back":               {isOurs: true, args: []string{"up", "mini.local", "--yes", "--take-over"}, isTaken: true},
		"upgrade":                  {isOurs: true, args: []string{"upgrade", "mini", "--yes"}, code: exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			f, m := theirs(c.isOurs)
			if c.keyIsNew {
				m.keyState = bootstrap.KeyNew
			}
			installs := f.logged("install")
			r := f.run(c.answers, c.args...)
			want := says
			if name == "with the flag" || name == "with the flag, add" || name == "upgrade" || name == "taken back" {
				want = "node" // what is done needs no words
			}
			wants(t, name, r, c.code, want, c.says)
			if c.saysNot != "" && strings.Contains(r.err, c.saysNot) {
				t.Errorf("it says %q\n%s", c.saysNot, r.err)
			}
			if isTaken := m.clusterID != "another-cluster"; isTaken != c.isTaken || (f.logged("install") > installs) != c.isTaken {
				t.Errorf("taken %v, want %v: %v\n%s%s", isTaken, c.isTaken, f.log, r.out, r.err)
			}
		})
	}
	f := newFakeNet(t)
	wants(t, "nobody named", f.run("", "up", "--take-over", "--yes"), exitUsage, "--take-over is for hosts that are named")
}

func TestDoctorSaysThatAHostIsOfAnotherCluster(t *testing.T) {
	t.Parallel()
	h := &bootstrap.Host{Target: bootstrap.Target{Host: "mini.local", Node: "n-mini"}}
	h.Facts.Owner = plan.Owner{ClusterID: "another-cluster"}
	f := ownerFinding(h, "this-cluster")
	if f == nil || f.State != plan.FindingFail || !strings.Contains(f.Fix, "--take-over") || !strings.Contains(f.Fix, "nodes rm n-mini") {
		t.Errorf("%+v", f)
	}
	if f := ownerFinding(h, "another-cluster"); f != nil {
		t.Errorf("its own: %+v", f)
	}
}

func TestAHostWithANewIDReplacesItsEntry(t *testing.T) {
	t.Parallel()
	for name, hardware := range map[string]string{"machine with a number": "hw-mini", "machine without": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeNet(t)
			m := f.mac("mini")
			m.hardware = hardware
			wants(t, "up", f.run("", "up", "--yes"), 0)
			old := m.key
			f.setNode(m, "", cluster.NodeDown)
			m.node, m.key, m.installed, m.runs = "n-again", "", "", false // its disk was restored
			wants(t, "again", f.run("", "up", "--yes"), 0, "is node n-again now; as n-mini it is out of the list")
			if len(f.admitted) != 1 || f.admitted[0].ID != "n-again" || !f.isRevoked(old) || f.isRevoked(m.key) {
				t.Errorf("%+v, former key revoked %v", f.admitted, f.isRevoked(old))
			}
		})
	}
}

func TestAnEntryThatAHostHadBeforeIsReplacedLater(t *testing.T) {
	t.Parallel()
	f, m := newCluster(t)
	old := f.former(userKey(t))
	live := f.admitted[0]
	live.ID, live.Key, live.Name = "n-copy", userKey(t), "copy" // up, so that it is another machine
	f.admitted = append(f.admitted, live)
	f.setNode(&fakeMac{node: live.ID}, newVersion9, cluster.NodeReady)
	installs := f.logged("install")
	wants(t, "up", f.run("", "up", "--yes"), 0, "as n-former it is out of the list")
	if !f.isRevoked(old.Key) || f.isRevoked(m.key) || f.isRevoked(live.Key) || f.logged("install") != installs {
		t.Errorf("former %v, own %v, copy %v: %v", f.isRevoked(old.Key), f.isRevoked(m.key), f.isRevoked(live.Key), f.log)
	}
	if len(f.admitted) != 2 {
		t.Errorf("%+v", f.admitted)
	}
}
