package agent_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// member runs an agent that has an identity of its own.
func (s *site) member(t *testing.T) (*agent.Identity, *controller) {
	t.Helper()
	s.start(t)
	id := identity(t, filepath.Join(t.TempDir(), "agent"), "machine-1")
	if err := id.Join(s.Authority.SignAgent); err != nil {
		t.Fatal(err)
	}
	c := s.controller(t)
	s.agent(t, enginetest.Script{}, func(o *agent.Options) {
		o.ID, o.Identity = id.ID, id
		o.Bus.Credentials, o.Bus.CredentialsFile = bus.Credentials{}, id.CredentialsPath
	})
	wait(t, c.hello, "hello", func(h bus.Hello) bool { return h.Node.ID == id.ID })
	return id, c
}

func (c *controller) rejoin(id cluster.NodeID, q bus.RejoinRequest) (bus.RejoinReply, error) {
	var reply bus.RejoinReply
	err := c.conn.Request(c.t.Context(), bus.CommandSubject(id, bus.VerbRejoin), q, &reply)
	return reply, err
}

func TestRejoinWithTheSameKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id, c := s.member(t)
	before, err := c.rejoin(id.ID, bus.RejoinRequest{})
	if err != nil || before.Live != id.PublicKey || before.Next != "" {
		t.Fatalf("got %+v, %v", before, err)
	}
	token, err := s.Authority.SignClient(id.PublicKey, "another") // told apart from the one before
	if err != nil {
		t.Fatal(err)
	}
	after, err := c.rejoin(id.ID, bus.RejoinRequest{JWT: token})
	if err != nil || after.JWT != token || after.JWT == before.JWT {
		t.Errorf("got %+v, %v", after, err)
	}
	if got, err := bus.CredentialsFromFile(id.CredentialsPath); err != nil || got.JWT != token || got.CheckKey() != nil {
		t.Errorf("the file has %+v, %v", got, err)
	}
}

func TestRejoinWithAnotherKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id, c := s.member(t)
	first, err := c.rejoin(id.ID, bus.RejoinRequest{NewKey: true})
	if err != nil {
		t.Fatal(err)
	}
	if !trust.Verify(first.Next, bus.NextKeyClaim(id.ID, first.Next), first.Proof) || first.Next == id.PublicKey {
		t.Errorf("got %+v", first)
	}
	again, err := c.rejoin(id.ID, bus.RejoinRequest{NewKey: true})
	if err != nil || again.Next != first.Next {
		t.Errorf("asked again: %+v, %v", again, err)
	}
	stranger, _, err := trust.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := s.Authority.SignAgent(stranger, id.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{wrong, "a.b.c"} {
		if _, err := c.rejoin(id.ID, bus.RejoinRequest{JWT: token}); cluster.CodeOf(err) != cluster.CodeUnauthorized || cluster.AsError(err).Node != id.ID {
			t.Errorf("a token for another key: %v", err)
		}
	}
	token, err := s.Authority.SignAgent(first.Next, id.ID)
	if err != nil {
		t.Fatal(err)
	}
	after, err := c.rejoin(id.ID, bus.RejoinRequest{JWT: token})
	if err != nil || after.JWT != token || after.Next != "" || after.Live != id.PublicKey {
		t.Errorf("got %+v, %v", after, err)
	}
	if got := identity(t, filepath.Dir(id.CredentialsPath), "machine-1"); got.ID != id.ID || got.PublicKey != first.Next || !got.HasJoined() {
		t.Errorf("after a restart it is %+v", got)
	}
}

func TestChangeOfKeyThatWasKilledBetweenItsFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id, c := s.member(t)
	asked, err := c.rejoin(id.ID, bus.RejoinRequest{NewKey: true})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(id.CredentialsPath)
	if got := identity(t, dir, "machine-1"); got.PublicKey != id.PublicKey {
		t.Errorf("before the token came, the key is %s", got.PublicKey)
	}
	data, err := os.ReadFile(filepath.Join(dir, "node.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Next struct{ Seed string }
	}
	if err := json.Unmarshal(data, &file); err != nil || file.Next.Seed == "" {
		t.Fatalf("node.json: %v", err)
	}
	token, err := s.Authority.SignAgent(asked.Next, id.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := (bus.Credentials{JWT: token, Seed: []byte(file.Next.Seed)}).WriteFile(id.CredentialsPath); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := identity(t, dir, "machine-1"); got.ID != id.ID || got.PublicKey != asked.Next {
			t.Errorf("got %+v, want key %s", got, asked.Next)
		}
	}
	if got := identity(t, dir, "machine-2"); got.ID == id.ID || got.PublicKey == asked.Next || got.HasJoined() {
		t.Errorf("on another machine it is %+v", got)
	}
}

func TestRejoinOfCredentialsThatOthersKeep(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start(t)
	c := s.controller(t)
	s.agent(t, enginetest.Script{}, nil)
	wait(t, c.hello, "hello, after which it listens", always)
	if _, err := c.rejoin(node, bus.RejoinRequest{}); cluster.CodeOf(err) != cluster.CodeUnsupported {
		t.Errorf("got %v", err)
	}
}
