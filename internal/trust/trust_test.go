package trust

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestInitIsPrivateAndIdempotent(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "home", "trust")
	a, err := Init(dir, "attic")
	if err != nil {
		t.Fatal(err)
	}
	before := contents(t, dir)
	b, err := Init(dir, "another name")
	if err != nil {
		t.Fatal(err)
	}
	if after := contents(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("a second Init changed files")
	}
	if a.ClusterID() != b.ClusterID() || b.Name() != "attic" || len(a.ClusterID()) != 16 {
		t.Errorf("second Init gave %q %q, want %q attic", b.ClusterID(), b.Name(), a.ClusterID())
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// killed stands for the end of the process: unlike an error, it lets nothing be tidied up.
type killed struct{}

func TestInitKilledAtAnyStepCompletesNextTime(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir := filepath.Join(parent, "trust")
	for step := 0; ; step++ {
		n := 0
		finished := func() (finished bool) {
			defer func() {
				if r := recover(); r != nil && r != (killed{}) {
					panic(r)
				}
			}()
			_, err := initialise(dir, "attic", time.Now(), func(string) error {
				if n++; n > step {
					panic(killed{})
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			return true
		}()
		if finished {
			break
		}
		if _, err := Open(dir); cluster.CodeOf(err) != cluster.CodeConflict {
			t.Fatalf("killed at step %d: Open gave %v, want conflict", step, err)
		}
		if step > 100 {
			t.Fatal("Init never finishes")
		}
	}
	if _, err := Init(dir, "attic"); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(parent)
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the identity there is %v, %v", entries, err)
	}
}

func TestInitAtTheSameTime(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "trust")
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			a, err := Init(dir, "attic")
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = a.ClusterID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("got identities %v, want one", ids)
		}
	}
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := Open(filepath.Join(t.TempDir(), "none"))
	if e := cluster.AsError(err); e.Code != cluster.CodeConflict || !strings.Contains(e.Message, "no cluster identity") {
		t.Errorf("missing folder: got %v", err)
	}
	dir := filepath.Join(t.TempDir(), "trust")
	if _, err := Init(dir, "attic"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, fileCAKey)); err != nil {
		t.Fatal(err)
	}
	_, err = Init(dir, "attic")
	if e := cluster.AsError(err); e.Code != cluster.CodeConflict || !strings.Contains(e.Message, fileCAKey) {
		t.Errorf("missing file: got %v", err)
	}
}

func TestServerCertificate(t *testing.T) {
	t.Parallel()
	a, other := authority(t), authority(t)
	now := time.Now()
	server, err := a.ServerTLS(now)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		client *tls.Config
		ok     bool
	}{
		{"right", &tls.Config{RootCAs: a.CAPool(), ServerName: a.ServerName()}, true},
		{"clock late", &tls.Config{RootCAs: a.CAPool(), ServerName: a.ServerName(), Time: func() time.Time { return now.Add(-29 * day) }}, true},
		{"clock far late", &tls.Config{RootCAs: a.CAPool(), ServerName: a.ServerName(), Time: func() time.Time { return now.Add(-31 * day) }}, false},
		{"another cluster", &tls.Config{RootCAs: other.CAPool(), ServerName: a.ServerName()}, false},
		{"another name", &tls.Config{RootCAs: a.CAPool(), ServerName: other.ServerName()}, false},
		{"old protocol", &tls.Config{RootCAs: a.CAPool(), ServerName: a.ServerName(), MaxVersion: tls.VersionTLS12}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0") // a pipe has no buffers: both ends may write at once
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			done := make(chan error, 1)
			go func() {
				far, err := l.Accept()
				if err == nil {
					err = tls.Server(far, server).HandshakeContext(t.Context())
					_ = far.Close()
				}
				done <- err
			}()
			near, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			err = tls.Client(near, tt.client).HandshakeContext(t.Context())
			_ = near.Close()
			<-done
			if (err == nil) != tt.ok {
				t.Errorf("handshake gave %v, want success %v", err, tt.ok)
			}
		})
	}
}

func TestServerCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	a := authority(t)
	s := &serverCert{issue: a.issue}
	now := time.Now()
	first, err := s.at(now)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := s.at(now.Add(300 * day)); again != first {
		t.Error("a certificate that is still good was replaced")
	}
	later := now.Add(340 * day)
	second, err := s.at(later)
	if err != nil {
		t.Fatal(err)
	}
	_, err = second.Leaf.Verify(x509.VerifyOptions{Roots: a.CAPool(), DNSName: a.ServerName(), CurrentTime: later.Add(100 * day)})
	if second == first || err != nil {
		t.Errorf("not renewed before its end: %v", err)
	}
}

func TestPermissionsAreExact(t *testing.T) {
	t.Parallel()
	a := authority(t)
	pub, _, err := NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		sign     func() (string, error)
		pub, sub string
		ways     string
	}{
		{
			"agent", func() (string, error) { return a.SignAgent(pub, "n1") },
			"[mlx.hb.n1 mlx.evt.n1.> mlx.r.n1.>]", "[mlx.cmd.n1.> mlx.all.>]", "[STANDARD]",
		},
		{
			"client", func() (string, error) { return a.SignClient(pub, "c1") },
			"[mlx.api.>]", "[mlx.c.c1.> _INBOX_c1.>]", "[STANDARD]",
		},
		{
			"controller", func() (string, error) { return a.SignController(pub) },
			"[mlx.>]", "[mlx.> _INBOX_ctl.>]", "[STANDARD IN_PROCESS]",
		},
	}
	for _, tt := range tests {
		token, err := tt.sign()
		if err != nil {
			t.Fatal(err)
		}
		c, err := jwt.DecodeUserClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(c.Pub.Allow); got != tt.pub {
			t.Errorf("%s may publish %s, want %s", tt.name, got, tt.pub)
		}
		if got := fmt.Sprint(c.Sub.Allow); got != tt.sub {
			t.Errorf("%s may subscribe to %s, want %s", tt.name, got, tt.sub)
		}
		if got := fmt.Sprint(c.AllowedConnectionTypes); got != tt.ways {
			t.Errorf("%s may connect by %s, want %s", tt.name, got, tt.ways)
		}
		if c.Resp != nil || c.Subject != pub || c.IssuerAccount != a.accountPub || c.Expires != 0 {
			t.Errorf("%s: claims are %+v", tt.name, c)
		}
	}
}

func TestNamesThatWouldMeanOthersAreRefused(t *testing.T) {
	t.Parallel()
	a := authority(t)
	pub, _, err := NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "*", ">", "a.b", "a.>", "a b", "a\n", "ä", strings.Repeat("a", 65)} {
		if _, err := a.SignAgent(pub, cluster.NodeID(bad)); cluster.CodeOf(err) != cluster.CodeInvalid {
			t.Errorf("SignAgent(%q) gave %v", bad, err)
		}
		if _, err := a.SignClient(pub, bad); cluster.CodeOf(err) != cluster.CodeInvalid {
			t.Errorf("SignClient(%q) gave %v", bad, err)
		}
	}
	for _, bad := range []string{"", "*", a.accountPub, "U123"} {
		if _, err := a.SignAgent(bad, "n1"); cluster.CodeOf(err) != cluster.CodeInvalid {
			t.Errorf("SignAgent of key %q gave %v", bad, err)
		}
		if _, _, err := a.Revoke(bad); cluster.CodeOf(err) != cluster.CodeInvalid {
			t.Errorf("Revoke(%q) gave %v", bad, err)
		}
	}
}

func TestClientNameIsTheOneSigned(t *testing.T) {
	t.Parallel()
	a := authority(t)
	pub, _, err := NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	client, err := a.SignClient(pub, "laptop-1")
	if err != nil {
		t.Fatal(err)
	}
	node, err := a.SignAgent(pub, "laptop-1")
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]string{client: "laptop-1", node: "", "": "", "a.b.c": ""} {
		if got := ClientName(token); got != want {
			t.Errorf("ClientName gave %q, want %q", got, want)
		}
	}
}

func TestRevocationsLast(t *testing.T) {
	t.Parallel()
	a := authority(t)
	b, err := Open(a.dir) // another process
	if err != nil {
		t.Fatal(err)
	}
	var pubs []string
	for i, by := range []*Authority{a, b} {
		pub, _, err := NewUserKey()
		if err != nil {
			t.Fatal(err)
		}
		pubs = append(pubs, pub)
		if _, _, err := by.Revoke(pub); err != nil {
			t.Fatalf("revocation %d: %v", i, err)
		}
	}
	c, err := Open(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := jwt.DecodeAccountClaims(c.Accounts()[c.accountPub])
	if err != nil {
		t.Fatal(err)
	}
	for _, pub := range pubs {
		if !claims.Revocations.IsRevoked(pub, time.Now()) {
			t.Errorf("%s is not revoked after a restart", pub)
		}
	}
}

func TestAPIKey(t *testing.T) {
	t.Parallel()
	a := authority(t)
	first, err := a.APIKey()
	if err != nil {
		t.Fatal(err)
	}
	if len(first) != 47 || !strings.HasPrefix(first, "mlx-") {
		t.Errorf("key is %q", first)
	}
	second, err := a.RotateAPIKey(time.Now(), 0)
	if err != nil || second == first {
		t.Fatalf("rotated to %q, %v", second, err)
	}
	if got, err := a.APIKey(); got != second || err != nil {
		t.Errorf("after rotation the key is %q, %v", got, err)
	}
	left, err := filepath.Glob(filepath.Join(a.dir, fileAPIKey+".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("rotation left %v, %v", left, err)
	}
}

func authority(t *testing.T) *Authority {
	t.Helper()
	a, err := Init(filepath.Join(t.TempDir(), "trust"), "attic")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]byte)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if len(bytes.TrimSpace(data)) == 0 {
			t.Error(errors.New(e.Name() + " is empty"))
		}
		out[e.Name()] = data
	}
	return out
}
