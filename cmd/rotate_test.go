package cmd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
	"github.com/mlxctl/mlxctl/internal/freeport"
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

// A node may not have another one thrown out by what it says of its keys.
func TestNodeCannotClaimKeysOfAnother(t *testing.T) {
	t.Parallel()
	s := newTrustSite(t)
	victim, thief := s.identity(t, "victim", true), s.identity(t, "thief", true)
	s.agent(t, victim, "victim")
	s.await(t, victim.ID, cluster.NodeReady)
	loot, err := bus.CredentialsFromFile(victim.CredentialsPath)
	if err != nil {
		t.Fatal(err)
	}
	own, err := bus.CredentialsFromFile(thief.CredentialsPath)
	if err != nil {
		t.Fatal(err)
	}
	o := s.options(thief.CredentialsPath)
	o.WaitForConnect = true
	conn, err := bus.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var mu sync.Mutex
	var says bus.RejoinReply
	_, err = conn.Handle(bus.CommandSubject(thief.ID, bus.VerbRejoin), func(context.Context, string, func(any) error) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		return says, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	proof, err := own.Sign(bus.NextKeyClaim(thief.ID, victim.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	fresh, seed, err := trust.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	honest, err := bus.Credentials{Seed: seed}.Sign(bus.NextKeyClaim(thief.ID, fresh))
	if err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]bus.RejoinReply{
		"its token":    {JWT: loot.JWT, Next: fresh, Proof: honest},
		"its key":      {JWT: own.JWT, Next: victim.PublicKey, Proof: proof},
		"no key":       {JWT: own.JWT},
		"a false word": {JWT: "a.b.c"},
	} {
		mu.Lock()
		says = lie
		mu.Unlock()
		results, err := s.rotation(t).nodeKeys(t.Context())
		if exitCode(t.Context(), err) != exitPartial || len(without(results)) != 1 {
			t.Errorf("%s: got %+v, %v", name, results, err)
		}
		if n, err := s.roster.Find("thief"); err != nil || n.Key != thief.PublicKey {
			t.Errorf("%s: the roster has %+v, %v", name, n, err)
		}
	}
	s.await(t, victim.ID, cluster.NodeReady)
	if !conn.Connected() {
		t.Error("keys of the thief were revoked by its own lies")
	}
}

func TestRevocationByAnotherProcessClosesALiveConnection(t *testing.T) {
	t.Parallel()
	s := newTrustSite(t)
	one, two := s.identity(t, "one", true), s.identity(t, "two", true)
	s.agent(t, one, "one")
	s.agent(t, two, "two")
	s.await(t, one.ID, cluster.NodeReady)
	s.await(t, two.ID, cluster.NodeReady)
	gone := make(chan string, 16)
	s.server.OnDisconnect(func(key string) { gone <- key })
	other, err := trust.Open(trustDir(s.dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.Revoke(one.PublicKey); err != nil {
		t.Fatal(err)
	}
	for key := ""; key != one.PublicKey; {
		select {
		case key = <-gone:
		case <-time.After(trustPatience):
			t.Fatal("the connection stays")
		}
	}
	s.await(t, one.ID, cluster.NodeDown)
	s.await(t, two.ID, cluster.NodeReady)
	o := s.options(one.CredentialsPath)
	o.WaitForConnect = true
	if _, err := bus.Dial(t.Context(), o); cluster.CodeOf(err) != cluster.CodeUnauthorized {
		t.Errorf("it may come back: %v", err)
	}
	h := &daemonHome{deps: &deps{}, home: t.TempDir(), local: &localSettings{NATSAddr: "127.0.0.1:0"}, slog: testLog(t)}
	conn, restarted, err := h.openBus(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer h.closeBus(conn, restarted)
	o.URLs = []string{restarted.URL()}
	if _, err := bus.Dial(t.Context(), o); cluster.CodeOf(err) != cluster.CodeUnauthorized {
		t.Errorf("it may come back after a restart: %v", err)
	}
	o.CredentialsFile = two.CredentialsPath
	c, err := bus.Dial(t.Context(), o)
	if err != nil {
		t.Fatalf("another node after a restart: %v", err)
	}
	_ = c.Close()
}

func TestNothingListensForJoinsWithoutAToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := trust.Init(trustDir(dir), "attic")
	if err != nil {
		t.Fatal(err)
	}
	addr := freeport.Addr(t)
	served, ended := make(chan string, 1), make(chan struct{}, 1)
	f := &follower{authority: a, given: a.Accounts(), addr: addr, log: testLog(t), admit: func(ctx context.Context, l net.Listener) error {
		served <- l.Addr().String()
		<-ctx.Done()
		ended <- struct{}{}
		return l.Close()
	}}
	stop := f.start(t.Context())
	defer stop()
	within := func(what string, ch <-chan struct{}) {
		t.Helper()
		select {
		case <-ch:
		case <-time.After(trustPatience):
			t.Fatal("not in time: " + what)
		}
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		_ = c.Close()
		t.Error("somebody listens without a token")
	}
	k, _, err := a.CreateToken(time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-served:
		if got != addr {
			t.Errorf("listens on %s, want %s", got, addr)
		}
	case <-time.After(trustPatience):
		t.Fatal("nobody listens with a token")
	}
	if err := a.RemoveToken(k.ID); err != nil {
		t.Fatal(err)
	}
	within("the end with the token's", ended)
	if _, _, err := a.CreateToken(time.Now(), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	<-served
	within("the end by time", ended)
}
