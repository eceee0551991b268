package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/controller"
	"github.com/mlxctl/mlxctl/internal/enrol"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// trustCheckEvery is how often the controller looks into the folder of the cluster's identity: what other processes do
// there counts within that time.
const trustCheckEvery = 250 * time.Millisecond

// renewTimeout bounds the controller's absence from its own bus.
const renewTimeout = 2 * time.Second

// follower has a running server do what the folder of the cluster's identity says.
type follower struct {
	authority *trust.Authority
	server    *bus.Server
	given     map[string]string // accounts as the server has them
	conn      *bus.Conn         // the controller's own
	signer    string            // that signed it
	admit     func(context.Context, net.Listener) error
	addr      string // for admit
	log       *slog.Logger

	said  map[string]string // by what failed, so that each failure is said once
	close func()            // ends admit; nil while it does not run
	ended chan struct{}     // closed when admit returned
}

// followTrust follows the folder until ctx ends or stop is called, which waits for what was begun.
func (h *daemonHome) followTrust(ctx context.Context, a *trust.Authority, conn *bus.Conn, server *bus.Server, c *controller.Controller) (stop func()) {
	s := enrol.NewServer(enrol.ServerOptions{
		Authority: a, Roster: roster.Open(rosterPath(h.home)), Log: h.slog,
		Settings: func() (json.RawMessage, error) { return h.enrolSettings(a) },
		IsTaken: func(id cluster.NodeID) bool {
			return slices.ContainsFunc(c.Snapshot().Nodes, func(n cluster.Node) bool { return n.ID == id })
		},
		IsDown: func(id cluster.NodeID) bool {
			return !slices.ContainsFunc(c.Snapshot().Nodes, func(n cluster.Node) bool { return n.ID == id && n.State != cluster.NodeDown })
		},
	})
	f := &follower{authority: a, server: server, given: a.Accounts(), conn: conn, admit: s.Serve, addr: h.local.EnrolAddr, log: h.slog}
	return f.start(ctx)
}

func (f *follower) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	f.said = make(map[string]string)
	var wg sync.WaitGroup
	wg.Go(func() { f.run(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

func (f *follower) run(ctx context.Context) {
	tick := time.NewTicker(trustCheckEvery)
	defer tick.Stop()
	for {
		f.tell("signing key", f.renew(ctx))
		f.tell("account", f.updateAccount())
		f.tell("joins", f.listen(ctx))
		select {
		case <-ctx.Done():
			if f.close != nil {
				f.close()
			}
			return
		case <-tick.C:
		}
	}
}

// tell logs a failure when it is a new one.
func (f *follower) tell(what string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != f.said[what] {
		f.log.Error("cannot follow the cluster's identity", "part", what, "err", err)
	}
	f.said[what] = text
}

// renew has the controller's own connection made anew when another key signs, before the server ends those that the key
// before signed: were the controller away together with the nodes, some would be given up before they are heard again.
func (f *follower) renew(ctx context.Context) error {
	if f.conn == nil {
		return nil
	}
	key, err := f.authority.SignerKey()
	if err != nil || key == f.signer {
		return err
	}
	if f.signer != "" { // the first one is that of the start
		ctx, cancel := context.WithTimeout(ctx, renewTimeout)
		defer cancel()
		if err := f.conn.Renew(ctx); err != nil {
			return err
		}
		f.log.Info("connected to the bus with the new signing key")
	}
	f.signer = key
	return nil
}

// updateAccount gives the server the account when it changed: connections of who was revoked, or was signed by a key that
// is gone, are closed then.
func (f *follower) updateAccount() error {
	pub, token, err := f.authority.Reload()
	if err != nil || token == f.given[pub] {
		return err
	}
	if err := f.server.UpdateAccount(pub, token); err != nil {
		return err
	}
	f.given[pub] = token
	f.log.Info("the bus has the account as it is now")
	return nil
}

// listen takes joins while a token is good for one, and has nothing listen otherwise: what is not there cannot be
// attacked.
func (f *follower) listen(ctx context.Context) error {
	if f.addr == "" {
		return nil
	}
	tokens, err := f.authority.Tokens()
	if err != nil {
		return err
	}
	now := time.Now()
	wanted := slices.ContainsFunc(tokens, func(t trust.Token) bool { return !t.IsExpired(now) })
	if f.close != nil && isClosed(f.ended) {
		f.close() // to be begun anew
	}
	switch {
	case wanted && f.close == nil:
		l, err := listen(f.addr)
		if err != nil {
			return portError(f.addr, err)
		}
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		f.ended = ended
		go func() {
			defer close(ended)
			if err := f.admit(ctx, l); err != nil {
				f.log.Error("joins ended", "err", err)
			}
		}()
		f.close = func() {
			cancel()
			<-ended
			f.close = nil
		}
		f.log.Info("nodes may join by token", "addr", f.addr)
	case !wanted && f.close != nil:
		f.close()
		f.log.Info("no node may join by token any more")
	}
	return nil
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// enrolSettings are what a node that joins by token now runs with.
func (h *daemonHome) enrolSettings(a *trust.Authority) (json.RawMessage, error) {
	s, err := nodeSettings(a, h.local)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode settings of a node: %w", err)
	}
	return data, nil
}

// isOnNetwork says whether other machines can reach what listens on addr.
func isOnNetwork(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && host != "localhost" && (ip == nil || !ip.IsLoopback())
}

// ownCluster is the cluster of the context in use, where its identity is on this machine: what commands need that admit
// nodes or change keys.
type ownCluster struct {
	cfg       *config.Config
	home      string
	local     *localSettings
	authority *trust.Authority
}

func (d *deps) ownCluster() (*ownCluster, error) {
	cfg, err := d.config(nil)
	if err != nil {
		return nil, err
	}
	if !isLocal(cfg) {
		return nil, usageHint("run it on the Mac where `mlxctl up` was run, or choose another context",
			"the identity of cluster %q is not on this machine", cfg.Context)
	}
	home := homeOf(cfg)
	local, _, err := readLocal(home)
	if err != nil {
		return nil, err
	}
	if local == nil {
		return nil, notRunning(home)
	}
	if local.NATSURL != "" {
		return nil, cluster.Errorf(cluster.CodeUnsupported, "this cluster uses a NATS of your own, which has its own users and keys").
			WithHint("make them with the tools of that NATS: nsc or nats auth")
	}
	authority, err := trust.Open(trustDir(home))
	if err != nil {
		return nil, err
	}
	return &ownCluster{cfg: cfg, home: home, local: local, authority: authority}, nil
}

// runningCluster is ownCluster, where its controller is ready, and what that says of itself.
func (d *deps) runningCluster() (*ownCluster, *controllerInfo, error) {
	c, err := d.ownCluster()
	if err != nil {
		return nil, nil, err
	}
	info, err := d.readInfo(c.home)
	if err == nil && info == nil {
		err = notRunning(c.home)
	}
	return c, info, err
}

// hostsOf are the hosts of URLs, for people.
func hostsOf(urls []string) string {
	var out []string
	for _, u := range urls {
		_, host, _ := strings.Cut(u, "://")
		out = append(out, host)
	}
	return strings.Join(out, ", ")
}
