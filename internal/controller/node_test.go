package controller_test

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

const beatEvery = 100 * time.Millisecond

func tiny() cluster.Model {
	return cluster.Model{Name: "tiny", Digest: "sha256:1", WeightBytes: 1 << 20, Context: 8192}
}

// script says how a node behaves. The zero script is a node with the model tiny in memory that counts words back.
type script struct {
	models   []cluster.Model
	replicas []cluster.Replica
	slots    int
	infer    func(ctx context.Context, q *bus.InferRequest, w *bus.StreamWriter) error
	aside    func(ctx context.Context, q *bus.AsideRequest) (cluster.AsideReply, error)
	load     func(ctx context.Context, q *bus.LoadRequest, w *bus.StreamWriter) error
	unload   func(q *bus.UnloadRequest) error
	resolve  func(name string) (cluster.Model, error)
	isDeaf   bool // hears requests and says nothing
	budget   int64
	url      string
}

// node is one that speaks as an agent does.
type node struct {
	t      *testing.T
	id     cluster.NodeID
	boot   string
	script script
	conn   *bus.Conn
	asked  atomic.Int32 // how often to answer
	mute   atomic.Bool  // no heartbeats but those of beat
	stop   func()
}

func (s *site) node(t *testing.T, id cluster.NodeID, sc script) *node {
	t.Helper()
	if sc.models == nil {
		sc.models = []cluster.Model{tiny()}
	}
	if sc.slots == 0 {
		sc.slots = 32
	}
	if sc.replicas == nil {
		sc.replicas = []cluster.Replica{{Model: "tiny", Digest: tiny().Digest, State: cluster.ReplicaReady, Slots: sc.slots}}
	}
	if sc.infer == nil {
		sc.infer = echo
	}
	n := &node{t: t, id: id, boot: rand.Text(), script: sc}
	o := s.agentBus(t, id)
	if sc.url != "" {
		o.URLs = []string{sc.url}
	}
	o.WaitForConnect = true
	n.conn = bustest.Reached(t, func() (*bus.Conn, error) { return bus.Dial(t.Context(), o) })
	n.serve()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		for {
			if !n.mute.Load() {
				n.beat()
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	n.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := n.conn.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

func (n *node) serve() {
	control := bus.ControlSubject(n.id)
	subject := func(verb string) string { return bus.CommandSubject(n.id, verb) }
	fail := func(_ *bus.Subscription, err error) {
		n.t.Helper()
		if err != nil {
			n.t.Fatal(err)
		}
	}
	if n.script.isDeaf {
		fail(n.conn.Subscribe(subject(bus.VerbInfer), func(string, func(any) error) { n.asked.Add(1) }))
	} else {
		fail(n.conn.ServeStreams(subject(bus.VerbInfer), control, 4096, func(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
			var q bus.InferRequest
			if err := decode(&q); err != nil {
				return err
			}
			n.asked.Add(1)
			return n.script.infer(ctx, &q, w)
		}))
	}
	if n.script.aside != nil {
		fail(n.conn.ServeStreams(subject(bus.VerbAside), control, 64, func(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
			var q bus.AsideRequest
			if err := decode(&q); err != nil {
				return err
			}
			reply, err := n.script.aside(ctx, &q)
			if err != nil {
				return err
			}
			for _, piece := range reply.Pieces() {
				if err := w.Send(piece); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	if n.script.load != nil {
		fail(n.conn.ServeStreams(subject(bus.VerbLoad), control, 64, func(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
			var q bus.LoadRequest
			if err := decode(&q); err != nil {
				return err
			}
			return n.script.load(ctx, &q, w)
		}))
	}
	fail(n.conn.Handle(subject(bus.VerbUnload), func(_ context.Context, _ string, decode func(any) error) (any, error) {
		var q bus.UnloadRequest
		if err := decode(&q); err != nil {
			return nil, err
		}
		return nil, n.script.unload(&q)
	}))
	fail(n.conn.Handle(subject(bus.VerbResolve), func(_ context.Context, _ string, decode func(any) error) (any, error) {
		var q bus.ResolveRequest
		if err := decode(&q); err != nil {
			return nil, err
		}
		if n.script.resolve == nil {
			return nil, cluster.Errorf(cluster.CodeNoModel, "no model %s here", q.Model)
		}
		m, err := n.script.resolve(q.Model)
		return bus.ResolveReply{Model: m}, err
	}))
	fail(n.conn.Subscribe(bus.HelloAll(), func(string, func(any) error) { n.hello() }))
	n.hello()
}

// hello is lost where there is no connection, as heartbeats are.
func (n *node) hello() {
	_ = n.conn.Publish(bus.EventSubject(n.id, bus.EventHello), bus.Hello{
		Node: cluster.Node{
			ID: n.id, Name: "mac-" + string(n.id), Models: n.script.models, Replicas: n.script.replicas, BudgetBytes: n.script.budget,
		},
		Boot: n.boot, Key: n.conn.PublicKey(),
	})
}

func (n *node) beat() {
	_ = n.conn.Publish(bus.HeartbeatSubject(n.id), bus.Heartbeat{Node: n.id, Boot: n.boot, Replicas: n.script.replicas})
}

// echo answers with the words of the prompt, one a chunk.
func echo(_ context.Context, q *bus.InferRequest, w *bus.StreamWriter) error {
	if err := w.Send(cluster.Chunk{Progress: &cluster.Progress{Phase: cluster.PhasePrefill}}); err != nil {
		return err
	}
	words := strings.SplitAfter(*q.Request.Prompt, " ")
	for i, word := range words {
		if err := w.Send(cluster.Chunk{Text: word, Tokens: []int{i}}); err != nil {
			return err
		}
	}
	return w.Send(cluster.Chunk{Finish: cluster.FinishStop, Usage: &cluster.Usage{CompletionTokens: len(words)}})
}

// first gives a token, and no more until it is cancelled.
func first(ctx context.Context, _ *bus.InferRequest, w *bus.StreamWriter) error {
	if err := w.Send(cluster.Chunk{Text: "first", Tokens: []int{1}}); err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// silence gives nothing until it is cancelled.
func silence(ctx context.Context, _ *bus.InferRequest, _ *bus.StreamWriter) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// refuse gives an error instead of an answer.
func refuse(code cluster.Code) func(context.Context, *bus.InferRequest, *bus.StreamWriter) error {
	return func(context.Context, *bus.InferRequest, *bus.StreamWriter) error {
		return cluster.Errorf(code, "refused with %s", code)
	}
}

// held answers when it is let.
type held struct {
	begun chan string // prompts, in order
	let   chan struct{}
}

func newHeld() *held { return &held{begun: make(chan string, 1024), let: make(chan struct{}, 1024)} }

func (h *held) infer(ctx context.Context, q *bus.InferRequest, w *bus.StreamWriter) error {
	h.begun <- *q.Request.Prompt
	select {
	case <-h.let:
		return echo(ctx, q, w)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func numbers(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strconv.Itoa(i))
		b.WriteByte(' ')
	}
	return b.String()
}
