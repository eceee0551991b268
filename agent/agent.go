package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

const (
	defaultBeat  = 500 * time.Millisecond
	defaultScan  = 10 * time.Second
	defaultGrace = 3 * time.Second
	// poolGrace is how long workers are asked to end before they are killed.
	poolGrace = 4 * time.Second

	// Streams that are served at once. The pool has its own bounds; these are against a flood.
	maxInfers, maxAsides, maxLoads, maxLogs = 4096, 1024, 64, 64
)

// Library finds models on this machine's disk; library.Library is one.
type Library interface {
	Resolve(ctx context.Context, name string) (cluster.Model, string, error)
	List(ctx context.Context) ([]cluster.Model, error)
}

// Monitor reads this machine; hwmon.Monitor is one.
type Monitor interface {
	Hardware(ctx context.Context) cluster.Hardware
	Load(ctx context.Context) cluster.Load
	Budget(ctx context.Context) int64
}

// Options say what an Agent works with. Bus, ID, Home, Library, Monitor and Launcher are required; zero values
// elsewhere choose the default.
type Options struct {
	// Bus says how to connect; OnReconnect and OnState are the agent's own, and it does not give up.
	Bus bus.Options
	// OnLink is told each time that there is a connection, and why there is none; nil means that nobody wants to know.
	// It has to return soon.
	OnLink  func(connected bool, err error)
	ID      cluster.NodeID
	Name    string // for people; the host's name
	Version string // of this program
	// Home is the node's folder: the logs in <Home>/log are told to who asks, <Home>/agent says whether it is drained.
	Home string
	// Identity is what Bus connects with, where it is this node's own: then its controller can renew it.
	Identity *Identity

	Library  Library
	Monitor  Monitor
	Launcher mlxbridge.Launcher

	BudgetBytes int64 // for all models together; zero means what the monitor says
	// Defaults are the options of models that have none of their own in Models. A pinned one of those is loaded at the
	// start.
	Defaults   mlxbridge.ModelOptions
	Models     []mlxbridge.ModelOptions
	StepTarget time.Duration // as in mlxbridge.PoolOptions
	// Grace is how long Run waits for running requests in the end; zero means 3 s, less than zero not at all.
	Grace time.Duration
	Log   *slog.Logger // nil means silence

	// Clocks that tests steer; zero values choose the usual.
	beatEvery, scanEvery, watchEvery time.Duration
	clock                            func() time.Duration
}

// Agent is one node of a cluster. Make it with New and call Run once.
type Agent struct {
	o       Options
	log     *slog.Logger
	boot    string
	started time.Time

	// Set by Run before anything else runs.
	conn     *bus.Conn
	pool     *mlxbridge.Pool
	budget   int64
	hardware cluster.Hardware

	gate    gate
	recent  recent
	running streams
	load    atomic.Pointer[cluster.Load] // the newest reading

	hello  chan struct{}      // someone has to be told who this is. Buffered: one is enough
	beat   chan struct{}      // a heartbeat is due early. Buffered: one is enough
	rescan chan struct{}      // the models on disk may have changed. Buffered: one is enough
	news   chan cluster.Event // to be told; bounded, for news may be dropped, and drops are counted
	lost   atomic.Int64       // news that were dropped

	mu     sync.Mutex
	models []cluster.Model // on disk; guarded by mu
}

// New makes an Agent. It does nothing yet.
func New(o Options) *Agent {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		o.Name = hostName()
	}
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	for _, f := range []struct {
		value *time.Duration
		usual time.Duration
	}{{&o.beatEvery, defaultBeat}, {&o.scanEvery, defaultScan}, {&o.watchEvery, watchEvery}} {
		if *f.value <= 0 {
			*f.value = f.usual
		}
	}
	if o.clock == nil {
		o.clock = sinceBoot
	}
	a := &Agent{
		o: o, log: o.Log, boot: rand.Text(), started: time.Now(),
		hello: make(chan struct{}, 1), beat: make(chan struct{}, 1), rescan: make(chan struct{}, 1),
		news: make(chan cluster.Event, newsKept), models: []cluster.Model{},
	}
	a.gate.idle = make(chan struct{})
	return a
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "node"
	}
	return strings.TrimSuffix(name, ".local")
}

// Run serves until ctx ends; then it takes nothing new, lets what runs finish for the time of Grace, and ends the
// workers. While there is no controller it goes on trying to reach one. It returns nil when it was asked to end and
// nothing was left behind.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.check(); err != nil {
		return err
	}
	a.recallDrained()
	a.hardware = a.o.Monitor.Hardware(ctx)
	if a.budget = a.o.BudgetBytes; a.budget <= 0 {
		a.budget = a.o.Monitor.Budget(ctx)
	}
	conn, err := a.dial(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	a.conn = conn
	a.pool = mlxbridge.NewPool(mlxbridge.PoolOptions{
		Launcher: a.o.Launcher, BudgetBytes: a.budget, Options: a.o.Defaults, Models: a.o.Models,
		StepTarget: a.o.StepTarget, Resolve: a.o.Library.Resolve, Log: a.log, OnEvent: a.onEvent,
	})
	return a.serve(ctx)
}

func (a *Agent) check() error {
	if a.o.ID == "" || a.o.Library == nil || a.o.Monitor == nil || a.o.Launcher == nil || !filepath.IsAbs(a.o.Home) {
		return errors.New("start agent: id, home, library, monitor and launcher are required")
	}
	return nil
}

func (a *Agent) dial(ctx context.Context) (*bus.Conn, error) {
	o := a.o.Bus
	o.WaitForConnect = false
	o.OnReconnect = func() { poke(a.hello) }
	o.OnState = func(connected bool, err error) {
		if a.o.OnLink != nil {
			a.o.OnLink(connected, err)
		}
		if connected {
			a.log.Info("connected to the cluster", "node", a.o.ID)
			return
		}
		a.log.Warn("not connected to the cluster; trying again", "err", err)
	}
	if o.Name == "" {
		o.Name = "node-" + string(a.o.ID)
	}
	if o.Log == nil {
		o.Log = a.log
	}
	return bus.Dial(ctx, o)
}

// serve runs everything and ends it in the order in which things depend on each other.
func (a *Agent) serve(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	scanned := make(chan struct{})
	wg.Go(func() { a.sample(work) })
	wg.Go(func() { a.scan(work, scanned) })
	wg.Go(func() { a.heartbeats(work) })
	wg.Go(func() { a.tellNews(work) })
	wg.Go(func() { a.watchSleep(work) })
	wg.Go(func() { a.loadPinned(work) })
	subs, err := a.listen()
	if err == nil {
		wg.Go(func() { a.introduce(work, scanned) })
		a.log.Info("agent runs", "node", a.o.ID, "budget_bytes", a.budget)
		<-ctx.Done()
		a.finish(work)
	}
	for _, s := range subs {
		err = errors.Join(err, s.Close())
	}
	stop()
	wg.Wait()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), poolGrace)
	defer cancel()
	if poolErr := a.pool.Close(end); poolErr != nil {
		err = errors.Join(err, fmt.Errorf("end workers: %w", poolErr))
	}
	return errors.Join(err, a.conn.Close())
}

// listen serves what a node is asked.
func (a *Agent) listen() ([]*bus.Subscription, error) {
	var subs []*bus.Subscription
	var failed error
	keep := func(s *bus.Subscription, err error) {
		if err != nil {
			failed = errors.Join(failed, err)
			return
		}
		subs = append(subs, s)
	}
	control := bus.ControlSubject(a.o.ID)
	subject := func(verb string) string { return bus.CommandSubject(a.o.ID, verb) }
	keep(a.conn.ServeStreams(subject(bus.VerbInfer), control, maxInfers, a.infer))
	keep(a.conn.ServeStreams(subject(bus.VerbAside), control, maxAsides, a.aside))
	keep(a.conn.ServeStreams(subject(bus.VerbLoad), control, maxLoads, a.loadModel))
	keep(a.conn.ServeStreams(subject(bus.VerbLogs), control, maxLogs, a.logs))
	keep(a.conn.Handle(subject(bus.VerbUnload), a.unload))
	keep(a.conn.Handle(subject(bus.VerbResolve), a.resolve))
	keep(a.conn.Handle(subject(bus.VerbDrain), a.drain))
	keep(a.conn.Handle(subject(bus.VerbRejoin), a.rejoin))
	keep(a.conn.Subscribe(bus.HelloAll(), func(string, func(any) error) { poke(a.hello) }))
	if failed != nil {
		return subs, fmt.Errorf("listen to the cluster: %w", failed)
	}
	return subs, nil
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
