package agent_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/freeport"
	"github.com/mlxctl/mlxctl/internal/library"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const node = cluster.NodeID("mini-1")

const patience = bustest.Patience

// site is a cluster's bus, which a test starts, and starts again at the same address.
type site struct {
	*bustest.Site
	addr string
}

func newSite(t *testing.T) *site {
	t.Helper()
	return &site{bustest.Prepare(t), freeport.Addr(t)}
}

func (s *site) start(t *testing.T) (stop func()) {
	t.Helper()
	server := s.Start(t, s.addr, nil)
	return func() { bustest.Stop(t, server) }
}

func (s *site) over(c bus.Credentials) bus.Options { return s.Over("tls://"+s.addr, c) }

// controller is the other side of the agent.
type controller struct {
	t     *testing.T
	conn  *bus.Conn
	hello chan bus.Hello
	beats chan bus.Heartbeat
	news  chan cluster.Event
}

func (s *site) controller(t *testing.T) *controller {
	t.Helper()
	o := s.over(bustest.Credentials(t, s.Authority.SignController))
	o.InboxPrefix, o.WaitForConnect = "_INBOX_ctl", true
	conn := bustest.Dial(t, o)
	c := &controller{
		t: t, conn: conn, hello: make(chan bus.Hello, 64), beats: make(chan bus.Heartbeat, 1024), news: make(chan cluster.Event, 256),
	}
	_, err := conn.Subscribe(bus.EventAll(), func(subject string, decode func(any) error) {
		switch _, kind, _ := bus.ParseEvent(subject); kind {
		case bus.EventHello:
			push(t, c.hello, decode)
		case bus.EventNews:
			push(t, c.news, decode)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Subscribe(bus.HeartbeatAll(), func(_ string, decode func(any) error) { push(t, c.beats, decode) })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ask asks all nodes to say hello, as a controller does that hears of one that it does not know. One that is not
// connected yet says hello when it is, perhaps before the controller hears it; then it is asked.
func (c *controller) ask() {
	c.t.Helper()
	wait(c.t, c.beats, "heartbeat of a node to ask", always)
	if err := c.conn.Publish(bus.HelloAll(), nil); err != nil {
		c.t.Fatal(err)
	}
}

// drop forgets the heartbeats that came so far.
func (c *controller) drop() {
	for {
		select {
		case <-c.beats:
		default:
			return
		}
	}
}

func push[T any](t *testing.T, ch chan T, decode func(any) error) {
	t.Helper()
	var v T
	if err := decode(&v); err != nil {
		t.Error(err)
		return
	}
	select {
	case ch <- v:
	default: // whoever waits looks at newer ones
	}
}

// wait returns the first that fits.
func wait[T any](t *testing.T, ch <-chan T, what string, fits func(T) bool) T {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case v := <-ch:
			if fits(v) {
				return v
			}
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func always[T any](T) bool { return true }

// fakeMonitor is a machine with known readings.
type fakeMonitor struct {
	hold     chan struct{}
	pressure *atomic.Int64 // of memory; 0 is not told
}

func (fakeMonitor) Hardware(context.Context) cluster.Hardware {
	return cluster.Hardware{OS: "darwin", Chip: "Apple M4", MemoryBytes: 16 << 30}
}

func (m fakeMonitor) Load(ctx context.Context) cluster.Load {
	if m.hold != nil {
		select {
		case <-m.hold:
		case <-ctx.Done():
		}
	}
	percent := 12.5
	load := cluster.Load{CPUPercent: &percent}
	if m.pressure != nil {
		if level := int(m.pressure.Load()); level > 0 {
			load.MemoryPressure = &level
		}
	}
	return load
}

func (fakeMonitor) Budget(context.Context) int64 { return 8 << 30 }

// rig is one agent that runs.
type rig struct {
	agent    *agent.Agent
	launcher *enginetest.Launcher
	home     string
	hub      string
	end      func() error // ends Run and returns what it returns
}

func (s *site) agent(t *testing.T, script enginetest.Script, change func(*agent.Options)) *rig {
	t.Helper()
	r := &rig{launcher: enginetest.NewLauncher(script), home: t.TempDir(), hub: t.TempDir()}
	lib, err := library.Open(library.Options{CacheDir: t.TempDir(), HubDirs: []string{r.hub}})
	if err != nil {
		t.Fatal(err)
	}
	o := agent.Options{
		Bus: s.over(s.Agent(t, node)),
		ID:  node, Name: "mini", Version: "1.2.3", Home: r.home, Library: lib, Monitor: fakeMonitor{}, Launcher: r.launcher,
		Grace: -1,
	}.WithClocks(50*time.Millisecond, 100*time.Millisecond, 0, nil)
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if change != nil {
		change(&o)
	}
	r.agent = agent.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.agent.Run(ctx) }()
	r.end = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("Run does not end")
		}
	})
	t.Cleanup(func() {
		if err := r.end(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// pair is a controller that has heard of an agent.
func pair(t *testing.T, script enginetest.Script, change func(*agent.Options)) (*controller, *rig, cluster.Node) {
	t.Helper()
	s := newSite(t)
	s.start(t)
	c := s.controller(t)
	r := s.agent(t, script, change)
	return c, r, wait(t, c.hello, "hello", always).Node
}

// open opens a stream with the agent.
func (c *controller) open(verb string, body any) (*bus.Stream, error) {
	id := rand.Text()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	stream, err := c.conn.OpenStream(ctx, bus.StreamCall{
		Subject: bus.CommandSubject(node, verb), Reply: bus.ReplySubject(node, id), Control: bus.ControlSubject(node),
		ID: id, Body: body, Gap: patience,
	})
	if err == nil {
		c.t.Cleanup(func() { _ = stream.Close() })
	}
	return stream, err
}

func count(to int) bus.InferRequest { return ask(fmt.Sprintf("Count from 1 to %d.", to)) }

func ask(prompt string) bus.InferRequest {
	return bus.InferRequest{
		Request: cluster.Request{ID: "r", Model: "tiny", Prompt: &prompt}, Model: cluster.Model{Name: "tiny"},
		Attempt: cluster.AttemptID(rand.Text()),
	}
}

// infer reads a whole answer, or up to an error.
func (c *controller) infer(q bus.InferRequest) (string, error) {
	stream, err := c.open(bus.VerbInfer, q)
	if err != nil {
		return "", err
	}
	return c.read(stream)
}

func (c *controller) read(stream *bus.Stream) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	var text strings.Builder
	finished := false
	for {
		var chunk cluster.Chunk
		err := stream.Next(ctx, &chunk)
		if errors.Is(err, io.EOF) {
			if !finished {
				err = errors.New("the answer has no end")
			} else {
				err = nil
			}
			return text.String(), err
		}
		if err != nil {
			return text.String(), err
		}
		text.WriteString(chunk.Text)
		finished = chunk.Finish != ""
	}
}

// load has a model in memory.
func (c *controller) load(q bus.LoadRequest) error {
	stream, err := c.open(bus.VerbLoad, q)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for {
		var chunk cluster.Chunk
		err := stream.Next(ctx, &chunk)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if chunk.Progress == nil || chunk.Progress.Phase != cluster.PhaseLoading || chunk.Text != "" {
			c.t.Errorf("a load tells %+v", chunk)
		}
	}
}

func (c *controller) request(verb string, in, out any) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	return c.conn.Request(ctx, bus.CommandSubject(node, verb), in, out)
}

// code wants an error of one kind, which says what and where.
func code(t *testing.T, err error, want cluster.Code, says ...string) {
	t.Helper()
	if err == nil || cluster.CodeOf(err) != want {
		t.Errorf("got error %v (%s), want code %s", err, cluster.CodeOf(err), want)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not say %q", err, s)
		}
	}
}

// put makes a model appear in a Hugging Face cache.
func put(t *testing.T, hub, name, tokenizer string) {
	t.Helper()
	dir := filepath.Join(hub, "models--"+strings.ReplaceAll(name, "/", "--"))
	if err := os.MkdirAll(filepath.Join(dir, "snapshots", "abc"), 0o755); err != nil {
		t.Fatal(err)
	}
	header := `{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}`
	for file, text := range map[string]string{
		"config.json":       `{"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}`,
		"tokenizer.json":    tokenizer,
		"model.safetensors": string([]byte{byte(len(header)), 0, 0, 0, 0, 0, 0, 0}) + header + "1234",
	} {
		if err := os.WriteFile(filepath.Join(dir, "snapshots", "abc", file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "refs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "refs", "main"), []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
}
