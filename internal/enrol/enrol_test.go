package enrol_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/enrol"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a controller that admits nodes.
type site struct {
	authority *trust.Authority
	roster    *roster.Roster
	addr      string
}

const settings = `{"cluster":"attic"}`

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	authority, err := trust.Init(filepath.Join(dir, "trust"), "attic")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{authority: authority, roster: roster.Open(filepath.Join(dir, "roster.json"))}
	l := listen(t)
	s.addr = l.Addr().String()
	server := enrol.NewServer(enrol.ServerOptions{
		Authority: authority, Roster: s.roster, IsTaken: func(id cluster.NodeID) bool { return id == "local" },
		IsDown:   func(id cluster.NodeID) bool { return strings.HasPrefix(string(id), "down") },
		Settings: func() (json.RawMessage, error) { return json.RawMessage(settings), nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// token makes a token; back moves the time of its making into the past.
func (s *site) token(t *testing.T, ttl, back time.Duration) enrol.Token {
	t.Helper()
	k, secret, err := s.authority.CreateToken(time.Now().Add(-back), ttl)
	if err != nil {
		t.Fatal(err)
	}
	return enrol.Token{URLs: []string{"https://" + s.addr}, Pin: s.authority.Pin(), ID: k.ID, Secret: secret}
}

func newNode(t *testing.T, id string) enrol.Node {
	t.Helper()
	pub, seed, err := trust.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	return enrol.Node{ID: cluster.NodeID(id), Key: pub, Name: "mini " + id, Sign: bus.Credentials{Seed: seed}.Sign}
}

func code(t *testing.T, what string, err error, want cluster.Code) {
	t.Helper()
	if cluster.CodeOf(err) != want {
		t.Errorf("%s: got %v (%s), want code %q", what, err, cluster.CodeOf(err), want)
	}
}

// admitted are the ids in the roster.
func (s *site) admitted(t *testing.T) string {
	t.Helper()
	nodes, err := s.roster.List()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range nodes {
		out = append(out, string(n.ID))
	}
	return strings.Join(out, " ")
}

func TestJoin(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	k := s.token(t, time.Minute, 0)
	k.URLs = append([]string{"https://127.0.0.1:1"}, k.URLs...) // nobody is there
	k, err := enrol.ParseToken(k.String() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, "n1")
	n.Name = "Anna’s \x1b[31mMac\nmini " + strings.Repeat("x", 100)
	a, err := enrol.Join(t.Context(), k, n)
	if err != nil {
		t.Fatal(err)
	}
	if a.CA != string(s.authority.CAPEM()) || string(a.Settings) != settings || a.JWT == "" {
		t.Errorf("answer is %+v", a)
	}
	got, err := s.roster.Find("n1")
	if err != nil || got.Key != n.Key || got.By != "token" || !strings.HasPrefix(got.Name, "Anna’s Mac mini x") || len(got.Name) != 64 {
		t.Errorf("the roster has %+v, %v", got, err)
	}
	// Its answer was lost: the same node asks again, and nobody else may.
	if _, err := enrol.Join(t.Context(), k, n); err != nil {
		t.Errorf("the same node again: %v", err)
	}
	_, err = enrol.Join(t.Context(), k, newNode(t, "n2"))
	code(t, "a second node", err, cluster.CodeUnauthorized)
	thief := newNode(t, "n1")
	_, err = enrol.Join(t.Context(), k, thief)
	code(t, "another key", err, cluster.CodeUnauthorized)
	if got := s.admitted(t); got != "n1" {
		t.Errorf("admitted are %q", got)
	}
}

func TestJoinIsRefused(t *testing.T) {
	t.Parallel()
	s, other := newSite(t), newSite(t)
	member := newNode(t, "member")
	if err := s.roster.Put(roster.Node{ID: member.ID, Key: member.Key, Name: "member", By: "ssh"}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		token func() enrol.Token
		node  enrol.Node
		want  cluster.Code
	}{
		{"expired", func() enrol.Token { return s.token(t, time.Minute, time.Minute) }, newNode(t, "n1"), cluster.CodeUnauthorized},
		{"removed", func() enrol.Token {
			k := s.token(t, time.Minute, 0)
			if err := s.authority.RemoveToken(k.ID); err != nil {
				t.Fatal(err)
			}
			return k
		}, newNode(t, "n1"), cluster.CodeUnauthorized},
		{"guessed secret", func() enrol.Token {
			k := s.token(t, time.Minute, 0)
			k.Secret = bytes.Repeat([]byte{7}, len(k.Secret))
			return k
		}, newNode(t, "n1"), cluster.CodeUnauthorized},
		{"somebody else answers", func() enrol.Token {
			k := s.token(t, time.Minute, 0)
			k.URLs = []string{"https://" + other.addr}
			return k
		}, newNode(t, "n1"), cluster.CodeUnauthorized},
		{"nobody answers", func() enrol.Token {
			k := s.token(t, time.Minute, 0)
			k.URLs = []string{"https://127.0.0.1:1"}
			return k
		}, newNode(t, "n1"), cluster.CodeUnreachable},
		{"another node's id", func() enrol.Token { return s.token(t, time.Minute, 0) }, newNode(t, "member"), cluster.CodeConflict},
		{"another node's key", func() enrol.Token { return s.token(t, time.Minute, 0) }, enrol.Node{ID: "n1", Key: member.Key, Sign: member.Sign}, cluster.CodeConflict},
		{"a key of somebody else", func() enrol.Token { return s.token(t, time.Minute, 0) }, enrol.Node{ID: "n1", Key: newNode(t, "x").Key, Sign: member.Sign}, cluster.CodeInvalid},
		{"the controller's own node", func() enrol.Token { return s.token(t, time.Minute, 0) }, newNode(t, "local"), cluster.CodeConflict},
		{"id that means all", func() enrol.Token { return s.token(t, time.Minute, 0) }, newNode(t, ">"), cluster.CodeInvalid},
		{"no key", func() enrol.Token { return s.token(t, time.Minute, 0) }, enrol.Node{ID: "n1", Key: "U1", Sign: member.Sign}, cluster.CodeInvalid},
	}
	for _, tt := range tests {
		a, err := enrol.Join(t.Context(), tt.token(), tt.node)
		code(t, tt.name, err, tt.want)
		if a != nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %+v, %q", tt.name, a, err)
		}
	}
	if got := s.admitted(t) + other.admitted(t); got != "member" {
		t.Errorf("admitted are %q", got)
	}
	if got, err := s.roster.Find("member"); err != nil || got.Key != member.Key {
		t.Errorf("the member is %+v, %v", got, err)
	}
}

// A copy of a request, taken where the TLS ends, is worth nothing on another connection: neither for the same node nor
// with another key in it.
func TestReplayIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	k := s.token(t, time.Minute, 0)
	n := newNode(t, "n1")
	var seen []byte
	man := &http.Server{ //nolint:gosec // a test
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen, _ = io.ReadAll(r.Body) }),
	}
	// The worst case: somebody in between who even has the cluster's certificate.
	secure, err := s.authority.ServerTLS(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	var run sync.WaitGroup
	run.Go(func() { _ = man.Serve(tls.NewListener(l, secure)) })
	mine := k
	mine.URLs = []string{"https://" + l.Addr().String()}
	_, err = enrol.Join(t.Context(), mine, n)
	code(t, "whoever answers without the token", err, cluster.CodeUnauthorized)
	_ = man.Close()
	run.Wait()
	if len(seen) == 0 {
		t.Fatal("no request was seen")
	}
	if bytes.Contains(seen, k.Secret) {
		t.Error("the secret travels")
	}
	for what, body := range map[string][]byte{
		"as it was":        seen,
		"with another key": bytes.ReplaceAll(seen, []byte(n.Key), []byte(newNode(t, "n1").Key)),
	} {
		status, text := s.post(t, body)
		if status != http.StatusForbidden || bytes.Contains(text, []byte("jwt")) {
			t.Errorf("%s: got %d %s", what, status, text)
		}
	}
	if got := s.admitted(t); got != "" {
		t.Errorf("admitted are %q", got)
	}
	if _, err := enrol.Join(t.Context(), k, n); err != nil { // nothing of this used the token up
		t.Error(err)
	}
}

// Whoever answers with a certificate that is not of the token's cluster is told nothing, even with that cluster's CA, which
// is no secret, beside a certificate of his own.
func TestImpostorIsToldNothing(t *testing.T) {
	t.Parallel()
	s, other := newSite(t), newSite(t)
	secure, err := other.authority.ServerTLS(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := secure.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(s.authority.CAPEM())
	dressed := tls.Certificate{Certificate: [][]byte{plain.Certificate[0], block.Bytes}, PrivateKey: plain.PrivateKey}
	for name, certificate := range map[string]tls.Certificate{"of another cluster": *plain, "with the cluster's CA": dressed} {
		l := listen(t)
		said := make(chan int, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				said <- -1
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute)) // where it hangs
			n, _ := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}).Read(make([]byte, 4096))
			said <- n
		}()
		k := s.token(t, time.Minute, 0)
		k.URLs = []string{"https://" + l.Addr().String()}
		_, err := enrol.Join(t.Context(), k, newNode(t, "n1"))
		code(t, name, err, cluster.CodeUnauthorized)
		if n := <-said; n != 0 {
			t.Errorf("%s: was told %d bytes", name, n)
		}
		_ = l.Close()
	}
}

// post sends anything.
func (s *site) post(t *testing.T, body []byte) (int, []byte) {
	t.Helper()
	status, text, err := s.tryPost(body)
	if err != nil {
		t.Fatal(err)
	}
	return status, text
}

func (s *site) tryPost(body []byte) (int, []byte, error) {
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: s.authority.CAPool(), ServerName: s.authority.ServerName(), MinVersion: tls.VersionTLS13},
		DisableKeepAlives: true,
	}}
	reply, err := client.Post("https://"+s.addr+"/v1/join", "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(reply.Body)
	return reply.StatusCode, data, err
}

func TestServerBoundsWhatItTakes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, body := range []string{"", "{", "[]", `{"id":"x"}`, strings.Repeat(" ", 5000) + "{}", `{"id":"x","node":"n","key":"U","proof":"AAAA"}`} {
		status, text := s.post(t, []byte(body))
		if status != http.StatusBadRequest && status != http.StatusForbidden {
			t.Errorf("%.30q: got %d %s", body, status, text)
		}
	}
	// All at once: what each second gives back must not be enough for them.
	var busy atomic.Bool
	var posts sync.WaitGroup
	for range 40 {
		posts.Go(func() {
			if status, _, err := s.tryPost(nil); err != nil {
				t.Error(err)
			} else if status == http.StatusTooManyRequests {
				busy.Store(true)
			}
		})
	}
	posts.Wait()
	if !busy.Load() {
		t.Error("one address may try without bound")
	}
	if got := s.admitted(t); got != "" {
		t.Errorf("admitted are %q", got)
	}
}

func TestSilentConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var conns []net.Conn
	for range 80 {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	closed := 0
	for _, c := range conns[:16] {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute)) // where they are kept for ever
		if _, err := c.Read(make([]byte, 1)); err != nil && !strings.Contains(err.Error(), "timeout") {
			closed++
		}
	}
	if closed != 16 {
		t.Errorf("%d of the oldest connections were closed, want 16", closed)
	}
	if _, err := enrol.Join(t.Context(), s.token(t, time.Minute, 0), newNode(t, "n1")); err != nil {
		t.Errorf("connections that say nothing keep a node out: %v", err)
	}
}

func TestClashUsesNoTokenUp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	member := newNode(t, "member")
	if _, err := enrol.Join(t.Context(), s.token(t, time.Minute, 0), member); err != nil {
		t.Fatal(err)
	}
	token := s.token(t, time.Minute, 0)
	_, err := enrol.Join(t.Context(), token, newNode(t, "member"))
	code(t, "the id of the member", err, cluster.CodeConflict)
	_, err = enrol.Join(t.Context(), token, enrol.Node{ID: "n1", Key: member.Key, Sign: member.Sign})
	code(t, "the key of the member", err, cluster.CodeConflict)
	if _, err := enrol.Join(t.Context(), token, newNode(t, "n1")); err != nil {
		t.Errorf("the token was used up by who was not admitted: %v", err)
	}
}

func TestParseToken(t *testing.T) {
	t.Parallel()
	good := enrol.Token{URLs: []string{"https://10.0.0.1:8662"}, ID: "abc", Secret: bytes.Repeat([]byte{1}, 32)}
	if got, err := enrol.ParseToken(good.String()); err != nil || got.String() != good.String() {
		t.Errorf("got %+v, %v", got, err)
	}
	change := func(f func(*enrol.Token)) string {
		k := good
		f(&k)
		return k.String()
	}
	for _, bad := range []string{
		"", "mlx1.", "mlx1.!", "mlx2." + good.String()[5:], good.String()[:len(good.String())-9], "mlx1." + strings.Repeat("a", 5000),
		change(func(k *enrol.Token) { k.URLs = nil }),
		change(func(k *enrol.Token) { k.URLs = []string{"http://10.0.0.1:8662"} }),
		change(func(k *enrol.Token) { k.URLs = []string{"https://10.0.0.1"} }),
		change(func(k *enrol.Token) { k.Secret = []byte("short") }),
		change(func(k *enrol.Token) { k.ID = "" }),
	} {
		if _, err := enrol.ParseToken(bad); cluster.CodeOf(err) != cluster.CodeInvalid {
			t.Errorf("ParseToken(%.40q) gave %v", bad, err)
		}
	}
}
