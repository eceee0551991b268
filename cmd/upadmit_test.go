package cmd

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// isRevoked says whether the cluster's identity on disk has thrown a key out.
func (f *fakeNet) isRevoked(key string) bool {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(trustDir(f.home), "account.jwt"))
	if err != nil {
		f.t.Fatal(err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(string(data), ".")[1])
	if err != nil {
		f.t.Fatal(err)
	}
	var claims struct {
		Nats struct{ Revocations map[string]int64 }
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		f.t.Fatal(err)
	}
	_, is := claims.Nats.Revocations[key]
	return is
}

// pending are the nodes whose admission was begun.
func (f *fakeNet) pending() []roster.Node {
	f.t.Helper()
	nodes, err := roster.Open(pendingPath(f.home)).List()
	if err != nil {
		f.t.Fatal(err)
	}
	return nodes
}

// A host has one node signed, and says in the end that it is another: it gets neither, and the other stays.
func TestHostCannotTakeThePlaceOfANode(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("victim")
	wants(t, "up", f.run("", "up", "--yes"), 0)
	before := f.admitted[0]
	f.mac("thief").poses = "n-victim"
	wants(t, "thief", f.run("", "up", "--yes"), exitPartial, "thief says it is another node")
	if len(f.admitted) != 1 || f.admitted[0].Key != before.Key || f.admitted[0].Host != before.Host || f.isRevoked(before.Key) {
		t.Errorf("%+v, before %+v", f.admitted, before)
	}
	if !f.isRevoked(f.keys[1]) || len(f.pending()) != 0 {
		t.Errorf("the thief's key is good; pending %+v", f.pending())
	}
}

func TestKeyThatWasSignedForNothingIsRevoked(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	m := f.mac("mini")
	f.wrong["n-mini"] = true
	wants(t, "wrong", f.run("", "up", "--yes"), exitFailed)
	if len(f.keys) != 1 || !f.isRevoked(f.keys[0]) || len(f.pending()) != 0 {
		t.Errorf("keys %v, pending %+v", f.keys, f.pending())
	}
	f.wrong["n-mini"] = false
	wants(t, "up", f.run("", "up", "--yes"), 0)
	m.installed, f.wrong["n-mini"] = oldVersion9, true
	wants(t, "the key of a node stays", f.run("", "up", "--yes"), exitFailed)
	if f.isRevoked(f.admitted[0].Key) {
		t.Error("an upgrade that failed took the node's key")
	}
}

// A command that was killed between the signature and the list leaves a key that the next command ends.
func TestKeyOfAKilledCommandIsRevokedByTheNext(t *testing.T) {
	t.Parallel()
	for _, next := range [][]string{{"up", "--yes", "--no-discover"}, {"nodes", "rm", "n-mini", "--yes"}} {
		f := newFakeNet(t)
		m := f.mac("mini")
		var kept []byte
		m.dies = func() {
			data, err := os.ReadFile(pendingPath(f.home))
			if err != nil {
				t.Error(err)
			}
			kept = data
		}
		f.wrong["n-mini"] = true
		wants(t, "up", f.run("", "up", "--yes"), exitFailed)
		key, _, err := trust.NewUserKey() // one that nobody has revoked yet
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(kept), f.keys[0]) {
			t.Fatalf("before the signature was given away, %q was written down", kept)
		}
		kept = []byte(strings.ReplaceAll(string(kept), f.keys[0], key))
		if err := os.WriteFile(pendingPath(f.home), kept, 0o600); err != nil {
			t.Fatal(err)
		}
		r := f.run("", next...)
		if !f.isRevoked(key) || len(f.pending()) != 0 {
			t.Errorf("after %v the key is good, pending %+v\n%s", next, f.pending(), r.err)
		}
	}
}

func TestKeyOfAnotherNodeIsNotSigned(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	wants(t, "up", f.run("", "up", "--yes"), 0)
	f.mac("thief").key = f.admitted[0].Key
	wants(t, "thief", f.run("", "up", "--yes"), exitPartial, "thief shows the key of mini")
	if f.isRevoked(f.admitted[0].Key) {
		t.Error("the key of mini was revoked")
	}
}

func TestNothingIsSignedWhileTheListCannotBeRead(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	h := &bootstrap.Host{Target: bootstrap.Target{Host: "mini.local"}}
	f.damaged = cluster.Errorf(cluster.CodeConflict, "the list is damaged")
	authority, err := trust.Init(trustDir(f.home), "lab")
	if err != nil {
		t.Fatal(err)
	}
	u := &upRun{upOptions: &upOptions{}, cfg: &config.Config{Dirs: config.Dirs{Home: f.home}}, roster: f, authority: authority}
	key, _, err := trust.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	if token, err := u.sign("n-mini", key, h); !errors.Is(err, f.damaged) || token != "" {
		t.Errorf("got %q, %v", token, err)
	}
	if _, err := u.judge(); !errors.Is(err, f.damaged) {
		t.Errorf("judged: %v", err)
	}
}

// Copies of one disk have one host key, and are two machines all the same.
func TestClonesWithOneHostKeyAreTwoHosts(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini").hardware = "hash-1"
	wants(t, "up", f.run("", "up", "--yes"), 0, "2 nodes serve")
	if f.admitted[0].Hardware != "hash-1" {
		t.Errorf("%+v", f.admitted)
	}
	clone := f.mac("clone")
	clone.fingerprint, clone.hardware, clone.node, clone.key = "SHA256:mini", "hash-2", "n-mini", f.hosts["mini.local"].key
	wants(t, "with the id of the other", f.run("", "up", "--yes"), exitPartial, "clone says that it is node n-mini, which is mini: its disk is a clone", "2 nodes serve")
	clone.node, clone.key = "n-clone", ""
	wants(t, "with an id of its own", f.run("", "up", "--yes"), 0, "3 nodes serve")
	wants(t, "again", f.run("", "up", "--yes"), 0, "3 nodes serve, 0 changed")
	// The clone has the address of the other, which is gone.
	f.hosts["mini.local"] = clone
	delete(f.hosts, "clone.local")
	wants(t, "rm", f.run("", "nodes", "rm", "mini", "--yes"), exitFailed, "another Mac answers in its place")
	if f.logged("uninstall") != 0 {
		t.Errorf("%v", f.log)
	}
}

// Nobody may look at the number of a machine whose host key is not agreed to yet.
func TestNewClonesWithOneHostKeyAreTwoHosts(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	for _, name := range []string{"a", "b"} {
		m := f.mac(name)
		m.fingerprint, m.keyState, m.hardware = "SHA256:same", bootstrap.KeyNew, "hash-"+name
	}
	wants(t, "up", f.run("", "up", "--yes"), 0, "3 nodes serve")
	// One Mac with two names is one.
	f = newFakeNet(t)
	for _, name := range []string{"a", "b"} {
		m := f.mac(name)
		m.fingerprint, m.keyState, m.hardware, m.node = "SHA256:same", bootstrap.KeyNew, "hash", "n-one"
	}
	wants(t, "two names", f.run("", "up", "--yes"), 0, "2 nodes serve")
}

// Several machines may be behind one name.
func TestHostsBehindOneNameAreSeveral(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	for _, port := range []string{"2201", "2202"} {
		f.hosts["gw:"+port] = &fakeMac{fingerprint: "SHA256:" + port, keyState: bootstrap.KeyNew, node: cluster.NodeID("n-" + port)}
	}
	wants(t, "up", f.run("", "up", "--yes", "a@gw:2201", "b@gw:2202"), 0, "3 nodes serve")
	// They show no key any more once they are looked at again.
	f = newFakeNet(t)
	for _, port := range []string{"2201", "2202"} {
		f.hosts["gw:"+port] = &fakeMac{fingerprint: "SHA256:" + port, keyState: bootstrap.KeyNew, node: cluster.NodeID("n-" + port)}
	}
	f.leaves = "gw"
	r := f.run("", "up", "--yes", "a@gw:2201", "b@gw:2202")
	if r.code != exitFailed || strings.Count(r.out, "does not answer") != 2 {
		t.Errorf("%+v", r)
	}
}

// Bonjour may know no host names.
func TestMacsWithoutHostNamesAreSeveral(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	sight := func(addr string, login bool) bonjour.Mac {
		return bonjour.Mac{Name: "Mac mini", Addrs: sighting.Addresses([]string{addr}), Port: 22, RemoteLogin: login}
	}
	f.sightings = []bonjour.Mac{sight("192.0.2.10", true), sight("192.0.2.11", true), sight("192.0.2.12", false)}
	for _, addr := range []string{"192.0.2.10", "192.0.2.11"} {
		f.hosts[addr] = &fakeMac{fingerprint: "SHA256:" + addr, keyState: bootstrap.KeyKnown, node: cluster.NodeID("n-" + strings.ReplaceAll(addr, ".", "-"))}
	}
	wants(t, "up", f.run("", "up", "--yes"), 0, "3 nodes serve", "Remote Login is off")
	var hosts []string
	for _, n := range f.admitted {
		hosts = append(hosts, n.Host)
	}
	slices.Sort(hosts)
	if !slices.Equal(hosts, []string{"192.0.2.10", "192.0.2.11"}) {
		t.Errorf("%v", hosts)
	}
}

// A node that has a key and is not in the list can be thrown out, and one in the list loses every key that it has.
func TestNodeThatIsNotInTheListIsThrownOut(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	wants(t, "up", f.run("", "up", "--yes"), 0)
	var keys []string
	for range 2 {
		key, _, err := trust.NewUserKey()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	f.nodes = append(f.nodes, cluster.Node{ID: "n-stray", Name: "stray", State: cluster.NodeReady}, cluster.Node{ID: "n-mute", Name: "mute", State: cluster.NodeReady})
	f.live = map[cluster.NodeID]string{"n-stray": keys[0], "n-mini": keys[1]}
	wants(t, "stray", f.run("", "nodes", "rm", "stray", "--yes"), 0, "removed: 1")
	if !f.isRevoked(keys[0]) || f.logged("forget n-stray") != 1 || f.logged("uninstall") != 0 {
		t.Errorf("%v", f.log)
	}
	wants(t, "mute", f.run("", "nodes", "rm", "mute", "--yes"), exitFailed, "mute: it does not answer\nhint: `mlxctl keys rotate signing`")
	listed := f.admitted[0].Key
	wants(t, "mini", f.run("", "nodes", "rm", "mini", "--yes"), 0, "removed: 1")
	if !f.isRevoked(listed) || !f.isRevoked(keys[1]) {
		t.Error("a key of mini is good")
	}
}
