package bus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := bus.StartServer(t.Context(), s.Options(t, s.Server.Addr()))
	code(t, err, cluster.CodeConflict)
	if err == nil || !strings.Contains(err.Error(), s.Server.Addr()) {
		t.Errorf("error %v does not name %s", err, s.Server.Addr())
	}
}

func TestBadServerOptions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for name, change := range map[string]func(*bus.ServerOptions){
		"no port":     func(o *bus.ServerOptions) { o.Addr = "127.0.0.1" },
		"bad port":    func(o *bus.ServerOptions) { o.Addr = "127.0.0.1:http" },
		"no operator": func(o *bus.ServerOptions) { o.OperatorJWT = "" },
		"too much":    func(o *bus.ServerOptions) { o.MaxPayload = 1 << 40 },
		"not here":    func(o *bus.ServerOptions) { o.Addr = "192.0.2.1:0" },
	} {
		o := s.Options(t, "127.0.0.1:0")
		change(&o)
		_, err := bus.StartServer(t.Context(), o)
		if cluster.CodeOf(err) != cluster.CodeInvalid {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestServerKeepsAStore(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := filepath.Join(s.dir, "store")
	s.Start(t, "127.0.0.1:0", func(o *bus.ServerOptions) { o.StoreDir = dir })
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Errorf("store holds %v, %v", entries, err)
	}
}

func TestWhoMayConnect(t *testing.T) {
	t.Parallel()
	s, other := newSite(t), newSite(t)
	good := func() bus.Options { return s.over(s.Server.URL(), s.Agent(t, "n1")) }
	tests := []struct {
		name   string
		change func(*bus.Options)
		want   cluster.Code
	}{
		{"right", func(*bus.Options) {}, ""},
		{"no credentials", func(o *bus.Options) { o.Credentials = bus.Credentials{} }, cluster.CodeUnauthorized},
		{"credentials of another cluster", func(o *bus.Options) { o.Credentials = other.Agent(t, "n1") }, cluster.CodeUnauthorized},
		{"authority of another cluster", func(o *bus.Options) { o.RootCAs = other.Authority.CAPool() }, cluster.CodeUnauthorized},
		{"name of another cluster", func(o *bus.Options) { o.ServerName = other.Authority.ServerName() }, cluster.CodeUnauthorized},
		{"no file", func(o *bus.Options) { o.CredentialsFile = filepath.Join(s.dir, "none") }, cluster.CodeUnauthorized},
		{"nobody there", func(o *bus.Options) { o.URLs = []string{"tls://127.0.0.1:1"} }, cluster.CodeUnreachable},
		{"no address", func(o *bus.Options) { o.URLs = nil }, cluster.CodeInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := good()
			tt.change(&o)
			c, err := bus.Dial(t.Context(), o)
			if cluster.CodeOf(err) != tt.want {
				t.Errorf("got %v (%s), want code %q", err, cluster.CodeOf(err), tt.want)
			}
			if err != nil {
				if strings.ContainsAny(err.Error(), "\n") {
					t.Errorf("error has more than one line: %q", err)
				}
				t.Log(err, "|", cluster.AsError(err).Hint)
				return
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // whom nobody answers, not even with an end
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = bus.Dial(ctx, s.over("tls://"+silent.Addr().String(), s.Agent(t, "n1")))
	code(t, err, cluster.CodeUnreachable)
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	controller := s.controller(t)
	beats := make(chan string, 16)
	_, err := controller.Subscribe(bus.HeartbeatAll(), func(subject string, _ func(any) error) { beats <- subject })
	if err != nil {
		t.Fatal(err)
	}
	n1, n2, client := s.agent(t, "n1"), s.agent(t, "n2"), s.client(t, "c1")

	if err := n2.Publish(bus.HeartbeatSubject("n1"), struct{}{}); err != nil {
		t.Fatal(err)
	}
	if err := n2.Publish(bus.HeartbeatSubject("n2"), struct{}{}); err != nil {
		t.Fatal(err)
	}
	if got := <-beats; got != bus.HeartbeatSubject("n2") {
		t.Errorf("n2 sent a heartbeat as %s", got)
	}

	// n2 serves what n1 is asked, and answers into n1's replies: nothing of that arrives.
	serve(t, n2, "n1", 1, counting)
	_, err = controller.OpenStream(t.Context(), call("n1", "a", 1))
	code(t, err, cluster.CodeUnreachable)
	if _, err := n1.Subscribe(bus.CommandSubject("n1", bus.VerbInfer), func(string, func(any) error) {
		_ = n2.Publish(bus.ReplySubject("n1", "b"), struct{}{})
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := controller.OpenStream(ctx, call("n1", "b", 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a stream that n2 answers for n1 gave %v", err)
	}

	// A client may neither ask a node nor read what others are sent.
	code(t, client.Request(t.Context(), bus.CommandSubject("n1", bus.VerbUnload), struct{}{}, nil), cluster.CodeUnauthorized)
	_, err = client.OpenStream(t.Context(), bus.StreamCall{
		Subject: bus.APISubject("generate"), Reply: bus.ClientSubject("c2", "x"), Control: bus.APIControl(), ID: "x",
	})
	code(t, err, cluster.CodeUnauthorized)
	heard := make(chan string, 16)
	for _, subject := range []string{"mlx.c.c2.>", "mlx.r.>", "mlx.api.>", bus.CommandSubject("n1", "infer"), "$SYS.>"} {
		if _, err := client.Subscribe(subject, func(subject string, _ func(any) error) { heard <- subject }); err != nil {
			t.Fatal(err)
		}
		_ = controller.Publish(strings.ReplaceAll(subject, ">", "y"), struct{}{})
	}
	if _, err := controller.RTT(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RTT(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(heard) > 0 {
		t.Errorf("a client heard %s", <-heard)
	}
}

func TestRevocationClosesALiveConnection(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	gone := make(chan string, 16)
	s.Server.OnDisconnect(func(key string, isRevoked bool) {
		if !isRevoked {
			key = "not revoked: " + key
		}
		gone <- key
	})
	states := make(chan error, 16)
	o := s.over(s.Server.URL(), s.Agent(t, "n1"))
	o.OnState = func(connected bool, err error) {
		if !connected {
			states <- err
		}
	}
	agent, other := bustest.Dial(t, o), s.agent(t, "n2")
	pub, token, err := s.Authority.Revoke(agent.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Server.UpdateAccount(pub, token); err != nil {
		t.Fatal(err)
	}
	if got := <-gone; got != agent.PublicKey() || got == "" {
		t.Errorf("server says that %q went away, want %q", got, agent.PublicKey())
	}
	for err := range states { // first that it is lost, then why it stays so
		if cluster.CodeOf(err) == cluster.CodeUnauthorized {
			break
		}
	}
	if agent.Connected() {
		t.Error("revoked, and connected")
	}
	code(t, agent.Publish(bus.HeartbeatSubject("n1"), struct{}{}), cluster.CodeUnauthorized)
	if _, err := other.RTT(t.Context()); err != nil {
		t.Errorf("another node: %v", err)
	}
	// Admitted again at once, it is let in again.
	again := o
	again.Credentials.JWT, err = s.Authority.SignAgent(agent.PublicKey(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	again.OnState = nil
	bustest.Dial(t, again)
}

func TestCredentialsFileIsReadAtEachConnect(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	file := filepath.Join(s.dir, "agent.creds")
	first, second := s.Agent(t, "n1"), s.Agent(t, "n1")
	if err := first.WriteFile(file); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file has mode %v, %v", info.Mode(), err)
	}
	if got, err := bus.CredentialsFromFile(file); err != nil || got.JWT != first.JWT || string(got.Seed) != string(first.Seed) {
		t.Errorf("read back %+v, %v", got, err)
	}
	cable := bustest.NewCable(t, s.Server.Addr())
	connects := make(chan struct{}, 16)
	o := s.over(cable.URL(), bus.Credentials{})
	o.CredentialsFile, o.OnReconnect = file, func() { connects <- struct{}{} }
	agent := bustest.Dial(t, o)
	<-connects
	if want, _ := first.PublicKey(); agent.PublicKey() != want {
		t.Errorf("first connect as %s, want %s", agent.PublicKey(), want)
	}
	if err := second.WriteFile(file); err != nil {
		t.Fatal(err)
	}
	cable.Cut()
	<-connects
	if want, _ := second.PublicKey(); agent.PublicKey() != want {
		t.Errorf("second connect as %s, want %s", agent.PublicKey(), want)
	}
}

func TestAgentWaitsForItsServerForEver(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	addr := s.Server.Addr()
	creds := s.Agent(t, "n1")
	bustest.Stop(t, s.Server)
	var mu sync.Mutex
	var why []error
	connects := make(chan struct{}, 16)
	o := s.over("tls://"+addr, creds)
	o.WaitForConnect, o.OnReconnect = false, func() { connects <- struct{}{} }
	o.OnState = func(_ bool, err error) {
		mu.Lock()
		defer mu.Unlock()
		why = append(why, err)
	}
	agent := bustest.Dial(t, o)
	code(t, agent.Publish(bus.HeartbeatSubject("n1"), struct{}{}), cluster.CodeUnreachable)
	serve(t, agent, "n1", 1, counting) // what listens before the connect does so after it
	if agent.MaxPayload() != 0 {
		t.Errorf("limit is %d before the first connect", agent.MaxPayload())
	}
	s.Server = s.Start(t, addr, nil)
	<-connects
	if agent.MaxPayload() < 8<<20-1000 {
		t.Errorf("limit is %d", agent.MaxPayload())
	}
	if err := readAll(t.Context(), open(t, s.controller(t), call("n1", "a", 10)), 1, 10); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(why) < 2 || cluster.CodeOf(why[0]) != cluster.CodeUnreachable || why[len(why)-1] != nil {
		t.Errorf("told %v, want unreachable first and no error last", why)
	}
}

func TestBackgroundDialSaysWhyItIsRefused(t *testing.T) {
	t.Parallel()
	s, other := newSite(t), newSite(t)
	for name, o := range map[string]bus.Options{
		"credentials": s.over(s.Server.URL(), other.Agent(t, "n1")),
		"authority":   other.over(s.Server.URL(), s.Agent(t, "n1")),
	} {
		states := make(chan error, 16)
		o.WaitForConnect, o.OnState = false, func(_ bool, err error) { states <- err }
		bustest.Dial(t, o)
		select {
		case err := <-states:
			if cluster.CodeOf(err) != cluster.CodeUnauthorized {
				t.Errorf("%s: told %v", name, err)
			}
		case <-time.After(patience):
			t.Errorf("%s: told nothing", name)
		}
	}
}

func TestBackgroundDialSaysWhatChanged(t *testing.T) {
	t.Parallel()
	s, other := newSite(t), newSite(t)
	addr := s.Server.Addr()
	bustest.Stop(t, s.Server)
	states := make(chan error, 64)
	o := s.over("tls://"+addr, s.Agent(t, "n1"))
	o.WaitForConnect, o.OnState = false, func(_ bool, err error) { states <- err }
	bustest.Dial(t, o)
	code(t, <-states, cluster.CodeUnreachable)
	other.Start(t, addr, nil)
	err := <-states
	for cluster.CodeOf(err) == cluster.CodeUnreachable { // it listens, and does not answer yet
		err = <-states
	}
	code(t, err, cluster.CodeUnauthorized)
}

// external starts a server that is not ours: no operator, no TLS.
func external(t *testing.T) string {
	t.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, MaxPayload: 1 << 20,
		Users: []*server.User{{Username: "team", Password: "secret"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(patience) {
		t.Fatal("external server is not ready")
	}
	return srv.Addr().String()
}

func TestExternalServer(t *testing.T) {
	t.Parallel()
	addr := external(t)
	join := func(inbox string) *bus.Conn {
		return bustest.Dial(t, bus.Options{URLs: []string{"nats://team:secret@" + addr}, InboxPrefix: inbox, WaitForConnect: true})
	}
	agent, controller := join(""), join("")
	serve(t, agent, "n1", 1, counting)
	if err := readAll(t.Context(), open(t, controller, call("n1", "a", 1000)), 1, 1000); err != nil {
		t.Error(err)
	}
	_, err := controller.Handle(bus.APISubject("info"), func(_ context.Context, _ string, decode func(any) error) (any, error) {
		var in count
		err := decode(&in)
		return count{in.N + 1}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	var out count
	if err := agent.Request(t.Context(), bus.APISubject("info"), count{1}, &out); err != nil || out.N != 2 {
		t.Errorf("got %v, %v", out, err)
	}
	for name, o := range map[string]struct {
		options bus.Options
		want    cluster.Code
	}{
		"wrong password": {bus.Options{URLs: []string{"nats://team:wrong@" + addr}}, cluster.CodeUnauthorized},
		"TLS wanted":     {bus.Options{URLs: []string{"tls://team:secret@" + addr}}, cluster.CodeUnauthorized},
		"TLS first":      {bus.Options{URLs: []string{"nats://team:secret@" + addr}, HandshakeFirst: true}, cluster.CodeUnreachable},
	} {
		o.options.WaitForConnect = true
		_, err := bus.Dial(t.Context(), o.options)
		if cluster.CodeOf(err) != o.want || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v (%s), want code %s", name, err, cluster.CodeOf(err), o.want)
		}
	}
}

func TestShutdownTwice(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	controller := s.controller(t)
	bustest.Stop(t, s.Server)
	bustest.Stop(t, s.Server)
	eventually(t, "the connection is noticed to be gone", func() bool { return !controller.Connected() })
	if err := controller.Close(); err != nil {
		t.Error(err)
	}
	if err := controller.Close(); err != nil {
		t.Error(err)
	}
	code(t, controller.Publish(bus.HelloAll(), nil), cluster.CodeUnreachable)
}

// Connections that say nothing make room for those that do, and what runs goes on.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const room = 8
	o := s.Options(t, "127.0.0.1:0").WithRoom(room)
	server, err := bus.StartServer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bustest.Stop(t, server) })
	for range 5 * room {
		c, err := net.Dial("tcp", server.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	me := bustest.Dial(t, s.over(server.URL(), s.Client(t, "me")))
	if _, err := me.RTT(t.Context()); err != nil {
		t.Error(err)
	}
}

// A node or a client can subscribe to what its work needs, and no more.
func TestSubscriptionsAreBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for name, c := range map[string]bus.Credentials{"node": s.Agent(t, "mini"), "client": s.Client(t, "me")} {
		nc := s.raw(t, c)
		subject := map[string]string{"node": "mlx.cmd.mini.v%d", "client": "mlx.c.me.v%d"}[name]
		for i := range 5000 {
			if _, err := nc.SubscribeSync(fmt.Sprintf(subject, i)); err != nil {
				break
			}
		}
		eventually(t, name+" is told", func() bool {
			_ = nc.Flush()
			return errors.Is(nc.LastError(), nats.ErrMaxSubscriptionsExceeded)
		})
	}
}
