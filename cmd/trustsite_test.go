package cmd

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
	"github.com/mlxctl/mlxctl/internal/library"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// trustPatience ends what hangs; it says nothing about how long anything may take.
const trustPatience = time.Minute

// trustSite is a cluster in this process: a bus that follows its identity on disk, a controller and agents.
type trustSite struct {
	dir       string
	authority *trust.Authority
	server    *bus.Server
	roster    *roster.Roster
	own       cluster.NodeID
	*controller.Controller
}

func newTrustSite(t *testing.T) *trustSite {
	t.Helper()
	s := &trustSite{dir: t.TempDir()}
	s.roster = roster.Open(rosterPath(s.dir))
	var err error
	if s.authority, err = trust.Init(trustDir(s.dir), "attic"); err != nil {
		t.Fatal(err)
	}
	h := &daemonHome{deps: &deps{}, home: s.dir, local: &localSettings{NATSAddr: "127.0.0.1:0"}, slog: testLog(t)}
	conn, server, err := h.openBus(t.Context(), s.authority)
	if err != nil {
		t.Fatal(err)
	}
	s.server = server
	s.Controller = controller.New(controller.Options{Conn: conn, Server: server, Cluster: "attic", Log: testLog(t)})
	stop := h.followTrust(context.WithoutCancel(t.Context()), s.authority, conn, server, s.Controller)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		stop()
		h.closeBus(conn, server)
	})
	return s
}

func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// identity is that of a node that this cluster signed; with admit it is in the roster.
func (s *trustSite) identity(t *testing.T, name string, admit bool) *agent.Identity {
	t.Helper()
	id, err := agent.LoadIdentity(filepath.Join(s.dir, name), "machine of "+name, trust.NewUserKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Join(s.authority.SignAgent); err != nil {
		t.Fatal(err)
	}
	if name == "own" {
		s.own = id.ID
	}
	if admit {
		if err := s.roster.Put(roster.Node{ID: id.ID, Name: name, Key: id.PublicKey, By: "ssh"}); err != nil {
			t.Fatal(err)
		}
	}
	return id
}

func (s *trustSite) options(file string) bus.Options {
	return bus.Options{
		URLs: []string{s.server.URL()}, CredentialsFile: file, RootCAs: s.authority.CAPool(), ServerName: s.authority.ServerName(),
		HandshakeFirst: true,
	}
}

// agent runs a node.
func (s *trustSite) agent(t *testing.T, id *agent.Identity, name string) (stop func()) {
	t.Helper()
	lib, err := library.Open(library.Options{CacheDir: t.TempDir(), HubDirs: []string{t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	a := agent.New(agent.Options{
		Bus: s.options(id.CredentialsPath), ID: id.ID, Identity: id, Name: name, Home: t.TempDir(), Library: lib, Monitor: quietMac{},
		Launcher: enginetest.NewLauncher(enginetest.Script{TokensPerSecond: 40}), Defaults: mlxbridge.ModelOptions{MaxRows: 16}, Grace: -1,
		Log: testLog(t),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// quietMac is a machine with room for everything.
type quietMac struct{}

func (quietMac) Hardware(context.Context) cluster.Hardware { return cluster.Hardware{OS: "darwin"} }
func (quietMac) Load(context.Context) cluster.Load         { return cluster.Load{} }
func (quietMac) Budget(context.Context) int64              { return 8 << 30 }

func (s *trustSite) await(t *testing.T, id cluster.NodeID, state cluster.NodeState) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), trustPatience)
	defer cancel()
	for snapshot := range s.Watch(ctx) {
		for _, n := range snapshot.Nodes {
			if n.ID == id && n.State == state {
				return
			}
		}
	}
	t.Fatalf("node %s is not %s within %s", id, state, trustPatience)
}

func (s *trustSite) rotation(t *testing.T) *rotation {
	t.Helper()
	a, err := trust.Open(trustDir(s.dir)) // as another process
	if err != nil {
		t.Fatal(err)
	}
	return &rotation{
		authority: a, roster: s.roster, own: s.own, bus: func() bus.Options { return embeddedBus(a, []string{s.server.URL()}) }, log: testLog(t),
		live: func(context.Context) ([]cluster.Node, error) { return s.Snapshot().Nodes, nil },
	}
}

// load asks without a pause until it is told to stop, and fails the test with the first request that fails.
func (s *trustSite) load(t *testing.T, streams int) (begun, stop func()) {
	t.Helper()
	const to = 60 // 1.5 s and more at 40 tokens a second
	done, first := make(chan struct{}), make(chan struct{}, streams)
	var wg sync.WaitGroup
	for i := range streams {
		wg.Go(func() {
			for {
				var text strings.Builder
				prompt, told := fmt.Sprintf("Count from 1 to %d.", to), false
				err := s.Dispatch(context.Background(), &cluster.Request{Model: "tiny", Prompt: &prompt}, func(c cluster.Chunk) error {
					text.WriteString(c.Text)
					if c.Text != "" && !told {
						told = true
						select {
						case first <- struct{}{}:
						default:
						}
					}
					return nil
				})
				if want := enginetest.Counted(1, to); err != nil || text.String() != want {
					t.Errorf("stream %d: %v, got %q", i, err, text.String())
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	return func() {
			for range streams {
				select {
				case <-first:
				case <-time.After(trustPatience):
					t.Fatal("streams do not begin")
				}
			}
		}, sync.OnceFunc(func() {
			close(done)
			wg.Wait()
		})
}
