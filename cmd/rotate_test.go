package cmd

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

func TestSigningKeyIsReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	s := newTrustSite(t)
	one, two := s.identity(t, "one", true), s.identity(t, "own", false)
	former, err := bus.CredentialsFromFile(one.CredentialsPath)
	if err != nil {
		t.Fatal(err)
	}
	s.agent(t, one, "one")
	s.agent(t, two, "own")
	s.await(t, one.ID, cluster.NodeReady)
	s.await(t, two.ID, cluster.NodeReady)
	begun, stop := s.load(t, 6)
	defer stop()
	begun()
	before, err := s.authority.SignerKey()
	if err != nil {
		t.Fatal(err)
	}
	results, err := s.rotation(t).signing(t.Context(), false)
	if err != nil || len(results) != 2 {
		t.Fatalf("got %+v, %v", results, err)
	}
	stop()
	after, err := s.authority.SignerKey()
	if err != nil || after == before {
		t.Errorf("signed by %s before and %s after, %v", before, after, err)
	}
	o := s.options("")
	o.Credentials, o.WaitForConnect = former, true
	if c, err := bus.Dial(t.Context(), o); cluster.CodeOf(err) != cluster.CodeUnauthorized {
		t.Errorf("what the key before signed is believed: %v, %v", c, err)
	}
	s.await(t, one.ID, cluster.NodeReady)
	s.await(t, two.ID, cluster.NodeReady)
}

func TestSigningKeyStaysWhileANodeIsAway(t *testing.T) {
	t.Parallel()
	s := newTrustSite(t)
	one, away := s.identity(t, "one", true), s.identity(t, "away", true)
	s.agent(t, one, "one")
	s.await(t, one.ID, cluster.NodeReady)
	results, err := s.rotation(t).signing(t.Context(), false)
	if exitCode(t.Context(), err) != exitPartial || !strings.Contains(err.Error(), "away") {
		t.Errorf("got %+v, %v", results, err)
	}
	stop := s.agent(t, away, "away") // with what it had
	s.await(t, away.ID, cluster.NodeReady)
	if results, err = s.rotation(t).signing(t.Context(), false); err != nil || len(results) != 2 {
		t.Errorf("when it is back: %+v, %v", results, err)
	}
	s.await(t, away.ID, cluster.NodeReady)
	stop()
	s.await(t, away.ID, cluster.NodeDown)
	if _, err = s.rotation(t).signing(t.Context(), true); exitCode(t.Context(), err) != exitPartial {
		t.Errorf("with force: %v", err)
	}
	o := s.options(away.CredentialsPath)
	o.WaitForConnect = true
	if c, err := bus.Dial(t.Context(), o); cluster.CodeOf(err) != cluster.CodeUnauthorized {
		t.Errorf("a node that was let go is believed: %v, %v", c, err)
	}
	s.await(t, one.ID, cluster.NodeReady)
}

func TestNodeKeysAreReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	s := newTrustSite(t)
	ids := map[string]*agent.Identity{"one": s.identity(t, "one", true), "two": s.identity(t, "two", true), "own": s.identity(t, "own", false)}
	former := map[string]bus.Credentials{}
	for name, id := range ids {
		c, err := bus.CredentialsFromFile(id.CredentialsPath)
		if err != nil {
			t.Fatal(err)
		}
		former[name] = c
		s.agent(t, id, name)
		s.await(t, id.ID, cluster.NodeReady)
	}
	begun, stop := s.load(t, 6)
	defer stop()
	begun()
	results, err := s.rotation(t).nodeKeys(t.Context())
	if err != nil || len(results) != 3 {
		t.Fatalf("got %+v, %v", results, err)
	}
	stop()
	for name, id := range ids {
		s.await(t, id.ID, cluster.NodeReady)
		again, err := agent.LoadIdentity(filepath.Dir(id.CredentialsPath), "machine of "+name, trust.NewUserKey)
		if err != nil || again.ID != id.ID || again.PublicKey == id.PublicKey || !again.HasJoined() {
			t.Errorf("%s is %+v after that, %v", name, again, err)
		}
		if n, err := s.roster.Find(name); name != "own" && (err != nil || n.Key != again.PublicKey) {
			t.Errorf("the roster has %+v, %v", n, err)
		}
		o := s.options("")
		o.Credentials, o.WaitForConnect = former[name], true
		if c, err := bus.Dial(t.Context(), o); cluster.CodeOf(err) != cluster.CodeUnauthorized {
			t.Errorf("the former key of %s is believed: %v, %v", name, c, err)
		}
	}
}

// Nothing is signed for a node that was not admitted, and what was signed for it ends with the key that did.
func TestRotationRefusesWhoIsNotInTheList(t *testing.T) {
	t.Parallel()
	s := newTrustSite(t)
	one, stray := s.identity(t, "one", true), s.identity(t, "stray", false)
	s.agent(t, one, "one")
	s.agent(t, stray, "stray")
	s.await(t, one.ID, cluster.NodeReady)
	s.await(t, stray.ID, cluster.NodeReady)
	key := stray.PublicKey
	if live, err := s.rotation(t).liveKey(t.Context(), stray.ID); err != nil || live != key {
		t.Errorf("it lives with %q, %v; want %q", live, err, key)
	}
	results, err := s.rotation(t).nodeKeys(t.Context())
	if err != nil || len(results) != 2 || results[0].State != rotatedDone || results[1].State != rotatedRefused || stray.PublicKey != key {
		t.Errorf("got %+v, %v", results, err)
	}
	if results, err = s.rotation(t).signing(t.Context(), false); err != nil || len(results) != 2 || results[1].State != rotatedRefused {
		t.Errorf("got %+v, %v", results, err)
	}
	s.await(t, one.ID, cluster.NodeReady)
	s.await(t, stray.ID, cluster.NodeDown)
}

// A node that is taken out while its key is replaced stays out.
func TestNodeThatIsRemovedDuringARotationStaysOut(t *testing.T) {
	t.Parallel()
	s := newTrustSite(t)
	one := s.identity(t, "one", true)
	s.agent(t, one, "one")
	s.await(t, one.ID, cluster.NodeReady)
	r := s.rotation(t)
	members, err := r.members(t.Context())
	if err != nil || len(members) != 1 {
		t.Fatalf("%+v, %v", members, err)
	}
	if err := s.roster.Remove(one.ID); err != nil {
		t.Fatal(err)
	}
	conn, err := r.dial(t.Context(), r.authority.SignController)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := r.newKey(t.Context(), conn, members[0]); cluster.CodeOf(err) != cluster.CodeNoNode {
		t.Errorf("error is %v", err)
	}
	if nodes, err := s.roster.List(); err != nil || len(nodes) != 0 {
		t.Errorf("the roster has %+v, %v", nodes, err)
	}
	s.await(t, one.ID, cluster.NodeDown)
}
