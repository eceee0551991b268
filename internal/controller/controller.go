package controller

import (
	"context"
	"log/slog"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/share"
)

const (
	defaultWaiting = 4096
	// defaultSettle is a heartbeat, and the time in which an agent finds its controller again.
	defaultSettle = 1500 * time.Millisecond
	// helloEvery is the least time between two questions to all nodes who they are.
	helloEvery = 200 * time.Millisecond
)

// Options say what a Controller works with. Conn is required; zero values elsewhere choose the default.
type Options struct {
	Conn *bus.Conn
	// Server is the embedded server, for its notices of closed connections; nil when the bus is external: then only
	// heartbeats tell.
	Server *bus.Server

	Cluster string // its name
	Version string
	HTTP    string // base URL of the gateway
	LogFile string // of this process, for those who ask for it

	Deadlines Deadlines
	// Share says which requests share their answers; none by default.
	Share share.Options
	// MaxWaiting is how many requests may wait for a node; zero means 4096.
	MaxWaiting int
	// Settle is how long after the start a request may wait for nodes that have not come back yet; zero means 1.5 s,
	// less than zero not at all.
	Settle time.Duration
	Log    *slog.Logger // nil means silence

	linger time.Duration // a clock that tests steer: see lingerFor; zero chooses the usual
}

// Deadlines bound the parts of a request. Zero values choose the default.
type Deadlines struct {
	Queue      time.Duration // waiting for a node to be free, all attempts together: 10 min
	Accept     time.Duration // until the node says that it took the request: 2 s
	FirstToken time.Duration // from there to the first token, loading included: 10 min
	Gap        time.Duration // between two signs of life of a stream, of which there is one a second: 10 s
	Token      time.Duration // between two pieces of an answer, whatever signs of life there are: 2 min
	Total      time.Duration // of the request, where it sets none itself: 60 min
}

func (d *Deadlines) fill() {
	for _, f := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&d.Queue, 10 * time.Minute},
		{&d.Accept, 2 * time.Second},
		{&d.FirstToken, 10 * time.Minute},
		{&d.Gap, 10 * time.Second},
		{&d.Token, 2 * time.Minute},
		{&d.Total, time.Hour},
	} {
		if *f.value <= 0 {
			*f.value = f.usual
		}
	}
}

// Controller places requests. All methods are safe for concurrent use; requests are answered while Run runs.
type Controller struct {
	o        Options
	registry *registry
	ledger   *ledger
	placer   *placer
	resolver *resolver
	events   *broker
	viewer   *viewer
	shared   *share.Answers
	gate     gate
	answers  finishing
	talk     talk

	settled   chan struct{} // closed when every node had the time to come back
	notice    chan struct{} // wakes the loop of Run: deadlines of nodes changed. Buffered: one is enough
	strangers chan struct{} // somebody has to say who it is. Buffered: one is enough
}

// New makes a Controller.
func New(o Options) *Controller {
	o.Deadlines.fill()
	if o.MaxWaiting <= 0 {
		o.MaxWaiting = defaultWaiting
	}
	if o.Settle == 0 {
		o.Settle = defaultSettle
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Controller{
		o: o, registry: newRegistry(), ledger: &ledger{}, events: newBroker(), shared: share.New(o.Share),
		settled: make(chan struct{}), notice: make(chan struct{}, 1), strangers: make(chan struct{}, 1),
	}
	if o.linger > 0 {
		c.registry.linger = o.linger
	}
	c.placer = newPlacer(c.registry.nodes, o.MaxWaiting)
	c.resolver = &resolver{ask: c.askModel, now: time.Now, names: make(map[string]*answers)}
	c.viewer = &viewer{
		base: cluster.Snapshot{
			Cluster:    o.Cluster,
			Controller: cluster.Controller{Version: o.Version, StartedAt: time.Now(), HTTP: o.HTTP},
		},
		registry: c.registry, ledger: c.ledger, now: time.Now,
	}
	return c
}

// Run works until ctx ends; what is under way then fails with CodeUnreachable. It returns when nothing of it is left,
// and before only when it cannot begin. It may be called once.
func (c *Controller) Run(ctx context.Context) error {
	subscriptions, err := c.subscribe()
	if err != nil {
		return err
	}
	served, err := c.serve()
	if err != nil {
		closeAll(subscriptions)
		return err
	}
	if c.o.Server != nil {
		c.o.Server.OnDisconnect(c.onDisconnect)
	}
	c.askHello()
	c.loop(ctx)
	c.gate.close()
	closeAll(served)
	closeAll(subscriptions)
	c.events.close()
	c.gate.wait()
	c.shared.Close()
	return nil
}

// loop gives nodes their states by the passing of time, and requests their turns.
func (c *Controller) loop(ctx context.Context) {
	settle := time.AfterFunc(max(0, c.o.Settle), func() { close(c.settled) })
	defer settle.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	hello := time.NewTimer(time.Hour)
	defer hello.Stop()
	var asked time.Time
	for {
		now := c.now()
		events, next := c.registry.tick(now)
		c.tell(events)
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(next.Sub(now))
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.notice:
		case <-c.placer.stir:
			c.placer.pump()
		case <-c.strangers:
			hello.Reset(max(0, asked.Add(helloEvery).Sub(now)))
		case <-hello.C:
			asked = c.now()
			c.sayHello()
		}
	}
}

func (c *Controller) now() time.Time { return time.Now() }

// tell publishes what happened to nodes, and has those who wait looked at again.
func (c *Controller) tell(events []cluster.Event) {
	if len(events) == 0 {
		return
	}
	for _, e := range events {
		c.o.Log.Info("node changed", "node", e.Node, "event", e.Message)
	}
	c.events.publish(events...)
	c.placer.retry()
	poke(c.notice) // the next change by time may be due earlier
}

func (c *Controller) onDisconnect(key string, isRevoked bool) {
	if c.gate.isClosed() {
		return // the server outlives the controller
	}
	events := c.registry.disconnected(c.now(), key, isRevoked)
	if len(events) == 0 {
		return
	}
	c.tell(events)
	c.askHello() // it may have another connection already
}

// askHello has all nodes asked who they are: soon, and once for all who want to know.
func (c *Controller) askHello() { poke(c.strangers) }

func (c *Controller) sayHello() {
	if err := c.o.Conn.Publish(bus.HelloAll(), struct{}{}); err != nil {
		c.o.Log.Warn("could not ask nodes for hello", "err", err)
	}
}

// Snapshot returns the state of the cluster, at most 100 ms old. It must not be changed.
func (c *Controller) Snapshot() *cluster.Snapshot { return c.viewer.snapshot() }

// Watch sends Snapshots while they change, at most ten a second; a reader that is slow gets the newest one and misses
// those in between. The channel is closed when ctx ends or the controller does.
func (c *Controller) Watch(ctx context.Context) <-chan *cluster.Snapshot {
	out := make(chan *cluster.Snapshot, 1) // holds the newest that nobody took
	ctx, leave, err := c.gate.enter(ctx)
	if err != nil {
		close(out)
		return out
	}
	go func() {
		defer leave()
		c.viewer.watch(ctx, out)
	}()
	return out
}

// Events sends what happens from now on. A reader that is more than 256 behind misses events, and EventsDropped counts
// them. The channel is closed when ctx ends or the controller does.
func (c *Controller) Events(ctx context.Context) <-chan cluster.Event { return c.events.subscribe(ctx) }

// EventsDropped counts the events that readers of Events missed, all readers together.
func (c *Controller) EventsDropped() int64 { return c.events.missed() }

// Models lists the models on the disks of all nodes that are not down, by name.
func (c *Controller) Models() []cluster.Model { return catalogue(c.registry.nodes().Nodes) }

func (c *Controller) nameOf(id cluster.NodeID) string {
	nodes := c.registry.nodes().Nodes
	for i := range nodes {
		if nodes[i].ID == id {
			return nodeName(&nodes[i])
		}
	}
	return string(id)
}

// subscription is what a subscription of the bus can do here.
type subscription interface{ Close() error }

func closeAll(list []subscription) {
	for _, s := range list {
		_ = s.Close() // the connection ends them anyway
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
