package cmd

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/reach"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/service"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// outpost is the home of a node that another machine's controller has admitted.
type outpost struct {
	*home
	id   cluster.NodeID
	key  string
	stop func()
}

// outpost installs a node of h's cluster, as an operator would, and starts its agent in the foreground, as a unit would.
func (h *home) outpost(name string, change func(*plan.Settings)) *outpost {
	h.t.Helper()
	o := &outpost{home: &home{t: h.t, dir: h.t.TempDir()}}
	o.env = append(os.Environ(), asBinary+"=1", "MLXCTL_HOME="+o.dir, "MLXCTL_CACHE="+enginetest.CacheDir(h.t), "HF_HOME="+filepath.Join(o.dir, "hf"))
	authority, err := trust.Open(trustDir(h.dir))
	if err != nil {
		h.t.Fatal(err)
	}
	identity, err := agent.LoadIdentity(filepath.Join(o.dir, "agent"), "", trust.NewUserKey)
	if err == nil {
		err = identity.Join(authority.SignAgent)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	o.id, o.key = identity.ID, identity.PublicKey
	s := plan.Settings{
		Cluster: authority.Name(), ClusterID: authority.ClusterID(), ServerName: authority.ServerName(), CA: string(authority.CAPEM()),
		Name: name, Models: json.RawMessage(`{"MaxRows": 3}`),
	}
	change(&s)
	data, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(nodePath(o.dir), data, 0o600)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	o.start()
	return o
}

func (o *outpost) start() {
	o.t.Helper()
	cmd := o.command(o.t.Context(), "agent")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	o.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		if err := cmd.Wait(); err != nil && o.t.Context().Err() == nil {
			o.t.Errorf("the agent: %v\n%s", err, o.logs())
		}
	})
	o.t.Cleanup(o.stop)
}

// awaitLink waits until the agent says that it stands so with its controller.
func (o *outpost) awaitLink(state plan.LinkState) plan.Link {
	o.t.Helper()
	var l plan.Link
	o.await("link "+string(state), func() bool {
		data, err := os.ReadFile(reach.LinkPath(o.dir))
		return err == nil && json.Unmarshal(data, &l) == nil && l.State == state
	})
	return l
}

func (h *home) node(id cluster.NodeID) *cluster.Node {
	h.t.Helper()
	s := h.snapshot()
	for i := range s.Nodes {
		if s.Nodes[i].ID == id {
			return &s.Nodes[i]
		}
	}
	return nil
}

func (h *home) nats() string {
	h.t.Helper()
	var info controllerInfo
	data, err := os.ReadFile(infoPath(h.dir))
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return info.NATS[0]
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A node elsewhere is known by the roster before it speaks, serves over either way, and is gone when it was removed.
func TestNodesElsewhere(t *testing.T) {
	t.Parallel()
	h := running(t)
	list := roster.Open(rosterPath(h.dir))
	dials := h.outpost("dials", func(s *plan.Settings) { s.URLs = []string{"tls://" + freeAddr(t), h.nats()} })
	l := dials.awaitLink(plan.LinkConnected)
	if l.Node != dials.id || l.URL != h.nats() || l.Reverse || l.Version != "v0.0.0-test" || syscall.Kill(l.PID, 0) != nil {
		t.Errorf("the link is %+v", l)
	}
	called := h.outpost("called", func(s *plan.Settings) { s.ReverseAddr = freeAddr(t) })
	settings, _, err := readNode(called.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []roster.Node{
		{ID: dials.id, Name: "dials", Key: dials.key, By: "ssh"},
		{ID: called.id, Name: "called", Key: called.key, By: "ssh", Reverse: []string{settings.ReverseAddr}},
		{ID: "away", Name: "away", Key: trustKey(t), By: "ssh"},
	} {
		if err := list.Put(n); err != nil {
			t.Fatal(err)
		}
	}
	if l := called.awaitLink(plan.LinkConnected); !l.Reverse {
		t.Errorf("the link is %+v", l)
	}
	h.await("the one that is away is known", func() bool {
		n := h.node("away")
		return n != nil && n.State == cluster.NodeDown && n.Name == "away" && strings.Contains(n.Reason, "not heard of")
	})
	for _, o := range []*outpost{dials, called} {
		h.await("a node is ready", func() bool { n := h.node(o.id); return n != nil && n.State == cluster.NodeReady })
		if r := h.run("run", "tiny", countTo(30), "--node", string(o.id)); r.code != 0 || r.out != enginetest.Counted(1, 30) {
			t.Errorf("run: %+v\n%s", r, o.logs())
		}
		h.await("its settings of models count", func() bool {
			n := h.node(o.id)
			return len(n.Replicas) == 1 && n.Replicas[0].Slots == 3
		})
	}
	if r := h.run("logs", "called"); r.code != 0 || !strings.Contains(r.out, "agent runs") {
		t.Errorf("logs: %+v", r)
	}
	h.kill(h.pid("controller"))
	for _, o := range []*outpost{dials, called} {
		h.await("a node is back after the controller's death", func() bool {
			r := h.run("run", "tiny", countTo(3), "--node", string(o.id))
			return r.code == 0 && r.out == "1, 2, 3"
		})
	}
	if err := list.Remove(called.id); err != nil {
		t.Fatal(err)
	}
	called.stop()
	h.await("a removed one disappears", func() bool { return h.node(called.id) == nil })
	if _, err := os.Stat(reach.LinkPath(called.dir)); err == nil {
		t.Error("an agent that ended leaves its link behind")
	}
}

func trustKey(t *testing.T) string {
	t.Helper()
	pub, _, err := trust.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

// The keeper of a node's home runs an agent and no controller.
func TestKeeperOfANode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(nodePath(dir), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range (&deps{exe: "/mlxctl", env: os.LookupEnv}).services(dir, "", nil).Children {
		names = append(names, c.Name)
	}
	if fmt.Sprint(names) != "[agent]" {
		t.Errorf("it runs %v", names)
	}
	for _, bad := range []string{"", "{", `{"models": 3}`} {
		if err := os.WriteFile(nodePath(dir), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := readSettings(dir); cluster.CodeOf(err) != cluster.CodeInvalid {
			t.Errorf("settings %q: %v", bad, err)
		}
	}
}

// A node without a certificate of its cluster says so, for whoever installs it.
func TestNodeWithoutAuthority(t *testing.T) {
	t.Parallel()
	h := &home{t: t, dir: t.TempDir()}
	h.env = append(os.Environ(), asBinary+"=1", "MLXCTL_HOME="+h.dir, "MLXCTL_CACHE="+t.TempDir())
	if err := os.WriteFile(nodePath(h.dir), []byte(`{"server_name": "x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := h.command(t.Context(), "agent")
	err := cmd.Run()
	if _, failed := err.(*exec.ExitError); !failed { //nolint:errorlint // Run wraps nothing
		t.Errorf("it ended with %v", err)
	}
	log, err := os.ReadFile(service.LogPath(h.dir, "agent"))
	if err != nil || !strings.Contains(string(log), "holds no certificate") {
		t.Errorf("its log says %q, %v", log, err)
	}
}
