package bus_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
	"github.com/mlxctl/mlxctl/internal/library"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// town is a cluster at work, and somebody in its network who means no good.
type town struct {
	*site
	ctl *controller.Controller
}

const victim = cluster.NodeID("victim")

func newTown(t *testing.T) *town {
	t.Helper()
	s := newSite(t)
	w := &town{site: s, ctl: controller.New(controller.Options{Conn: s.controller(t), Server: s.Server, Cluster: "attic"})}
	run := func(run func(context.Context) error) {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	run(w.ctl.Run)
	lib, err := library.Open(library.Options{CacheDir: t.TempDir(), HubDirs: []string{t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	o := s.over(s.Server.URL(), s.Agent(t, victim))
	o.WaitForConnect = false
	run(agent.New(agent.Options{
		Bus: o, ID: victim, Name: "Studio", Home: t.TempDir(), Library: lib, Monitor: plainMac{},
		Launcher: enginetest.NewLauncher(enginetest.Script{TokensPerSecond: 100}), Defaults: mlxbridge.ModelOptions{MaxRows: 8}, Grace: -1,
	}).Run)
	eventually(t, "the node is ready", func() bool { return w.node().State == cluster.NodeReady })
	return w
}

type plainMac struct{}

func (plainMac) Hardware(context.Context) cluster.Hardware { return cluster.Hardware{OS: "darwin"} }
func (plainMac) Load(context.Context) cluster.Load         { return cluster.Load{} }
func (plainMac) Budget(context.Context) int64              { return 8 << 30 }

// node is the victim as the controller knows it.
func (w *town) node() cluster.Node {
	for _, n := range w.ctl.Snapshot().Nodes {
		if n.ID == victim {
			return n
		}
	}
	return cluster.Node{}
}

// unharmed answers prompts as long as attack runs, and looks at the registry meanwhile and after.
func (w *town) unharmed(t *testing.T, attack func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for e := range w.ctl.Events(ctx) {
			// Where the machine is slow, heartbeats may be late by themselves.
			if e.Kind == cluster.EventNodeState && !strings.Contains(e.Message, "late") && !strings.HasSuffix(e.Message, "ready") {
				t.Errorf("the registry changed: %s", e.Message)
			}
		}
	})
	var stop atomic.Bool
	answered := make(chan struct{}, 1)
	wg.Go(func() {
		for {
			var text strings.Builder
			prompt := "Count from 1 to 20."
			err := w.ctl.Dispatch(context.Background(), &cluster.Request{Model: "tiny", Prompt: &prompt}, func(c cluster.Chunk) error {
				text.WriteString(c.Text)
				return nil
			})
			if want := enginetest.Counted(1, 20); err != nil || text.String() != want {
				t.Errorf("an answer is %q, %v", text.String(), err)
			}
			select {
			case answered <- struct{}{}:
			default:
			}
			if stop.Load() {
				return
			}
		}
	})
	<-answered
	attack()
	stop.Store(true)
	eventually(t, "another answer", func() bool { return len(answered) > 0 })
	eventually(t, "the node is ready after it", func() bool { return w.node().State == cluster.NodeReady })
	nodes := w.ctl.Snapshot().Nodes
	if len(nodes) != 1 || nodes[0].ID != victim || nodes[0].Name != "Studio" {
		t.Errorf("the registry has %+v", nodes)
	}
	cancel()
	wg.Wait()
}

// forged is a message as the bus writes it.
func forged(t *testing.T, w *town, body any) []byte {
	t.Helper()
	// What an honest connection writes is what a forger would.
	heard := make(chan []byte, 1)
	nc := w.raw(t, bustest.Credentials(t, w.Authority.SignController))
	sub, err := nc.Subscribe("mlx.hb.copy", func(m *nats.Msg) { heard <- m.Data })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := w.agent(t, "copy").Publish(bus.HeartbeatSubject("copy"), body); err != nil {
		t.Fatal(err)
	}
	return <-heard
}

func TestStrangersAreNotHeard(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	other := newSite(t)
	revoked := w.Agent(t, victim) // of an earlier key of that node
	key, err := revoked.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	pub, token, err := w.Authority.Revoke(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Server.UpdateAccount(pub, token); err != nil {
		t.Fatal(err)
	}
	stolen := w.Agent(t, victim)
	w.unharmed(t, func() {
		secure := nats.Secure(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		for name, options := range map[string][]nats.Option{
			"no credentials":                 nil,
			"a name and a password":          {nats.UserInfo("admin", "admin")},
			"a token":                        {nats.Token("secret")},
			"a key of nobody":                {nats.Nkey(key, revoked.Sign)},
			"revoked credentials":            {nats.UserJWTAndSeed(revoked.JWT, string(revoked.Seed))},
			"a token without its key":        {nats.UserJWTAndSeed(stolen.JWT, string(revoked.Seed))},
			"credentials of another cluster": {nats.UserJWTAndSeed(other.Agent(t, victim).JWT, string(revoked.Seed))},
		} {
			nc, err := nats.Connect(w.Server.URL(), append(options, secure, nats.TLSHandshakeFirst(), nats.MaxReconnects(0))...)
			if err == nil {
				nc.Close()
				t.Errorf("%s: connected", name)
			}
		}
		if nc, err := nats.Connect(strings.Replace(w.Server.URL(), "tls://", "nats://", 1), nats.Timeout(time.Second)); err == nil {
			nc.Close()
			t.Error("connected without TLS")
		}
	})
}

func TestANodeCannotBeAnother(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	lie := forged(t, w, bus.Heartbeat{Node: victim, Boot: "forged", Seq: 1, Draining: true})
	hello := forged(t, w, bus.Hello{Node: cluster.Node{ID: victim, Name: "evil"}, Boot: "forged"})
	// One connection for each kind of trespass: what follows must not hide behind what went before.
	listener, speaker := w.raw(t, w.Agent(t, "thief")), w.raw(t, w.Agent(t, "thief"))
	heard := make(chan string, 1024)
	for _, subject := range []string{
		">", "mlx.>", "mlx.cmd.>", "mlx.cmd." + string(victim) + ".>", "mlx.cmd.*.infer", "mlx.r.>", "mlx.r." + string(victim) + ".>",
		"mlx.c.>", "mlx.api.>", "mlx.hb.*", "mlx.evt.>", "_INBOX.>", "_INBOX_ctl.>", "_INBOX*.>", "$SYS.>", "$SYS.ACCOUNT.*.DISCONNECT",
		"$JS.API.>", "$KV.>",
	} {
		if _, err := listener.Subscribe(subject, func(m *nats.Msg) { heard <- m.Subject }); err != nil {
			t.Fatal(err)
		}
		if err := listener.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	w.unharmed(t, func() {
		replies := make(chan string, 1024)
		sub, err := speaker.Subscribe("mlx.cmd.thief.>", func(m *nats.Msg) {
			if m.Header.Get("Status") == "" { // not the server, which says that nobody listens
				replies <- m.Subject
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		deadline := time.After(time.Second) // more than two late heartbeats, and than a twin needs to be one
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			for subject, data := range map[string][]byte{
				"mlx.hb." + string(victim):                        lie,
				"mlx.evt." + string(victim) + ".hello":            hello,
				"mlx.evt." + string(victim) + ".news":             hello,
				fmt.Sprintf("mlx.r.%s.%d", victim, n):             lie,
				fmt.Sprintf("mlx.r.%s.q.%d", victim, n):           lie,
				"mlx.cmd." + string(victim) + ".infer":            lie,
				"mlx.cmd." + string(victim) + ".unload":           lie,
				"mlx.cmd." + string(victim) + ".rejoin":           lie,
				"mlx.cmd." + string(victim) + ".ctl.x":            lie,
				"mlx.all.hello":                                   lie,
				"mlx.api.generate":                                lie,
				"mlx.api.snapshot":                                lie,
				"mlx.c.cli.x":                                     lie,
				"$SYS.REQ.SERVER.PING":                            nil,
				"$SYS.REQ.ACCOUNT.x.CLAIMS.UPDATE":                lie,
				"$JS.API.STREAM.CREATE.x":                         lie,
				"_INBOX_ctl.x":                                    lie,
				"mlx.hb." + string(victim) + ".x":                 lie,
				"mlx.evt.thief.hello." + string(victim) + ".more": hello,
			} {
				if err := speaker.PublishRequest(subject, "mlx.cmd.thief.reply", data); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-tick.C:
				continue
			case <-deadline:
			}
			break
		}
		if err := speaker.Flush(); err != nil {
			t.Fatal(err)
		}
		if len(replies) > 0 {
			t.Errorf("a node was answered: %s", <-replies)
		}
	})
	if err := listener.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(heard) > 0 {
		t.Errorf("a node heard %s", <-heard)
	}
}

// The subject says who speaks, whatever a message says of itself.
func TestANodeCannotNameAnotherInItsOwnMessages(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	lie := forged(t, w, bus.Heartbeat{Node: victim, Boot: "forged", Seq: 1, Draining: true})
	thief := w.raw(t, w.Agent(t, "thief"))
	w.unharmed(t, func() {
		deadline := time.After(time.Second)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := thief.Publish("mlx.hb.thief", lie); err != nil {
				t.Fatal(err)
			}
			select {
			case <-tick.C:
				continue
			case <-deadline:
			}
			return
		}
	})
}

// A fake controller learns nothing: the agent says not a word to whoever cannot prove to be of its cluster.
func TestFakeControllerIsToldNothing(t *testing.T) {
	t.Parallel()
	s, other := newSite(t), newSite(t)
	secure, err := other.Authority.ServerTLS(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	var said atomic.Int64
	tries := make(chan struct{}, 64)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				// It greets as a server does, in case somebody listens.
				info, _ := json.Marshal(map[string]any{"server_id": "x", "max_payload": 1 << 20, "nonce": "abc", "auth_required": true})
				secured := tls.Server(c, secure)
				_, _ = fmt.Fprintf(secured, "INFO %s\r\n", info)
				n, _ := secured.Read(make([]byte, 1024))
				said.Add(int64(n))
				select {
				case tries <- struct{}{}:
				default:
				}
			})
		}
	})
	states := make(chan error, 64)
	o := s.over("tls://"+l.Addr().String(), s.Agent(t, victim))
	o.WaitForConnect, o.OnState = false, func(_ bool, err error) { states <- err }
	bustest.Dial(t, o)
	<-tries
	<-tries
	if n := said.Load(); n > 0 {
		t.Errorf("a fake controller was told %d bytes", n)
	}
	code(t, <-states, cluster.CodeUnauthorized)
}
