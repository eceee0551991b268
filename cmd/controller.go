package cmd

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/controller"
	"github.com/mlxctl/mlxctl/internal/gateway"
	"github.com/mlxctl/mlxctl/internal/service"
	"github.com/mlxctl/mlxctl/internal/share"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// shutdownTimeout bounds the end of the embedded server.
const shutdownTimeout = 3 * time.Second

// newController is the process that places requests; the keeper runs it.
func newController(d *deps) *cobra.Command {
	dm := &daemon{name: "controller"}
	return dm.command(d, "Place requests and serve the API", serveController)
}

func trustDir(home string) string { return filepath.Join(home, "trust") }

// serveController runs bus, controller and gateway until ctx ends.
func serveController(ctx context.Context, h *daemonHome) error {
	authority, err := trust.Open(trustDir(h.home))
	if err != nil {
		return err
	}
	listener, err := service.Listener(h.socket)
	if listener == nil && err == nil {
		listener, err = listen(h.local.HTTPAddr)
	}
	if err != nil {
		return portError(h.local.HTTPAddr, err)
	}
	defer listener.Close() //nolint:errcheck // the gateway has closed it, unless it never began
	conn, server, err := h.openBus(ctx, authority)
	if err != nil {
		return err
	}
	defer h.closeBus(conn, server)
	d, s := h.local.Deadlines, h.local.Share
	c := controller.New(controller.Options{
		Conn: conn, Server: server, Cluster: authority.Name(), Version: h.build.Version, HTTP: baseURL(listener.Addr()),
		LogFile: service.LogPath(h.home, "controller"),
		Deadlines: controller.Deadlines{
			Queue: d.Queue, Accept: d.Accept, FirstToken: d.FirstToken, Gap: d.Gap, Token: d.Token, Total: d.Total,
		},
		Share: share.Options{InFlight: s.InFlight == "on", TTL: s.TTL, MaxBytes: s.MemoryBytes},
		Log:   h.slog,
	})
	busAddr := ""
	if server != nil {
		busAddr = reachable(server.Addr())
		defer h.followTrust(ctx, authority, conn, server, c)()
	}
	defer h.followRoster(ctx, c, busAddr)()
	defer h.advertise(ctx, authority, server)()
	keys := &cachedKeys{path: authority.APIKeyPath(), read: authority.APIKeys}
	g := gateway.New(gateway.Options{Backend: c, APIKeys: keys.get, Version: h.build.Version, Finish: h.finish, Log: h.slog})
	return h.serveBoth(ctx, c, g, listener, controllerInfo{
		PID: os.Getpid(), Cluster: authority.Name(), Version: h.build.Version, HTTP: baseURL(listener.Addr()),
		NATS: h.natsURLs(server), Since: time.Now().UTC(),
	})
}

// advertise tells the local network where this controller is, for agents whose address for it is no longer right, until stop,
// which waits. A bus that only this machine reaches is nobody's business.
func (h *daemonHome) advertise(ctx context.Context, a *trust.Authority, server *bus.Server) (stop func()) {
	if server == nil || !isOnNetwork(server.Addr()) {
		return func() {}
	}
	_, portText, _ := net.SplitHostPort(server.Addr()) // of a listener
	port, _ := strconv.Atoi(portText)
	pin := a.Pin()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		err := bonjour.Advertise(ctx, bonjour.Advert{
			ClusterID: a.ClusterID(), Name: a.Name(), ControllerID: a.ClusterID(), CAHash: hex.EncodeToString(pin[:8]), Port: port,
		}, h.slog)
		if err != nil && ctx.Err() == nil {
			h.slog.Warn("cannot tell the network where the controller is", "err", err)
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// serveBoth ends the gateway first, so that its clients are told what the controller does with their requests.
func (h *daemonHome) serveBoth(ctx context.Context, c *controller.Controller, g *gateway.Gateway, l net.Listener, info controllerInfo) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	group, ctx := errgroup.WithContext(ctx)
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group.Go(func() error { return c.Run(inner) })
	group.Go(func() error {
		defer stop()
		err := g.Serve(ctx, l)
		c.Finish(ctx) // what came over the bus: until then, it was taken as HTTP was
		return err
	})
	if err := h.announce(info); err != nil {
		giveUp()
		return errors.Join(err, group.Wait())
	}
	h.slog.Info("serving", "http", info.HTTP, "nats", strings.Join(info.NATS, ","))
	err := group.Wait()
	if removeErr := os.Remove(infoPath(h.home)); removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) {
		h.slog.Warn("cannot remove the controller's addresses", "err", removeErr)
	}
	return err
}

// announce says where the controller is, and that what kept it from starting is over.
func (h *daemonHome) announce(info controllerInfo) error {
	data, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode controller's addresses: %w", err)
	}
	if err := config.WriteFile(infoPath(h.home), data); err != nil {
		return fmt.Errorf("write controller's addresses: %w", err)
	}
	h.clearFailure("controller")
	return nil
}

func (h *daemonHome) clearFailure(name string) {
	if err := os.Remove(failurePath(h.home, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.slog.Warn("cannot remove the note of an older failure", "err", err)
	}
}

// openBus starts the embedded server and connects to it, or connects to the one that the settings name.
func (h *daemonHome) openBus(ctx context.Context, a *trust.Authority) (*bus.Conn, *bus.Server, error) {
	if h.local.NATSURL != "" {
		o, err := h.local.externalBus()
		if err != nil {
			return nil, nil, err
		}
		o.Name, o.InboxPrefix, o.WaitForConnect, o.Log = "controller", "_INBOX_ctl", true, h.slog
		conn, err := bus.Dial(ctx, o)
		return conn, nil, err
	}
	server, err := h.startServer(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	conn, err := bus.Dial(ctx, bus.Options{
		InProcess: server, Renew: func() (bus.Credentials, error) { return newUser(a.SignController) },
		Name: "controller", InboxPrefix: "_INBOX_ctl", WaitForConnect: true, Log: h.slog,
	})
	if err != nil {
		h.closeBus(nil, server)
		return nil, nil, err
	}
	return conn, server, nil
}

func (h *daemonHome) startServer(ctx context.Context, a *trust.Authority) (*bus.Server, error) {
	tlsConfig, err := a.ServerTLS(time.Now())
	if err != nil {
		return nil, err
	}
	token, seed, err := a.SystemUser()
	if err != nil {
		return nil, err
	}
	return bus.StartServer(ctx, bus.ServerOptions{
		Name: "controller-" + a.ClusterID(), Addr: h.local.NATSAddr, StoreDir: filepath.Join(h.home, "nats"), TLS: tlsConfig,
		OperatorJWT: a.OperatorJWT(), Accounts: a.Accounts(), SystemAccount: a.SystemAccount(),
		SystemCredentials: bus.Credentials{JWT: token, Seed: seed}, Log: h.slog,
	})
}

func (h *daemonHome) closeBus(conn *bus.Conn, server *bus.Server) {
	if conn != nil {
		if err := conn.Close(); err != nil {
			h.slog.Warn("cannot close the connection to the bus", "err", err)
		}
	}
	if server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		h.slog.Warn("cannot shut down the bus", "err", err)
	}
}

func (h *daemonHome) natsURLs(server *bus.Server) []string {
	if server != nil {
		return []string{server.URL()}
	}
	return strings.Split(h.local.NATSURL, ",")
}

// newUser makes a key and has it signed; neither is stored.
func newUser(sign func(pub string) (string, error)) (bus.Credentials, error) {
	pub, seed, err := trust.NewUserKey()
	if err != nil {
		return bus.Credentials{}, err
	}
	token, err := sign(pub)
	if err != nil {
		return bus.Credentials{}, err
	}
	return bus.Credentials{JWT: token, Seed: seed}, nil
}

// baseURL is where programs on this machine reach a listener.
func baseURL(addr net.Addr) string { return "http://" + reachable(addr.String()) }

// reachable is an address on which programs on this machine reach what listens on addr.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// externalBus describes the connection to a NATS of the user's own.
func (l *localSettings) externalBus() (bus.Options, error) {
	return busOptions(l.NATSURL, l.NATSCreds, l.NATSCA, l.NATSServerName)
}

// unauthorizedKey is the error of credentials that cannot be read.
func unauthorizedKey(what string, err error) error {
	return cluster.Errorf(cluster.CodeUnauthorized, "cannot read %s: %v", what, err)
}
