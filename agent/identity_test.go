package agent_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

func identity(t *testing.T, dir, hardware string) *agent.Identity {
	t.Helper()
	id, err := agent.LoadIdentity(dir, hardware, trust.NewUserKey)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func join(t *testing.T, id *agent.Identity) {
	t.Helper()
	authority, err := trust.Init(filepath.Join(t.TempDir(), "trust"), "attic")
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Join(authority.SignAgent); err != nil {
		t.Fatal(err)
	}
}

func TestIdentityStays(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "agent")
	first := identity(t, dir, "machine-1")
	if first.ID == "" || first.PublicKey == "" || first.Renewed == "" || first.HasJoined() {
		t.Errorf("a new identity is %+v", first)
	}
	join(t, first)
	second := identity(t, dir, "machine-1")
	if second.ID != first.ID || second.PublicKey != first.PublicKey || second.Renewed != "" || !second.HasJoined() {
		t.Errorf("got %+v, want %+v", second, first)
	}
	credentials, err := bus.CredentialsFromFile(second.CredentialsPath)
	if err != nil {
		t.Fatal(err)
	}
	if pub, err := credentials.PublicKey(); err != nil || pub != first.PublicKey {
		t.Errorf("the credentials are of %q, %v", pub, err)
	}
}

func TestIdentityOfAClonedDiskIsAnother(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	original := identity(t, dir, "machine-1")
	join(t, original)
	clone := identity(t, dir, "machine-2")
	if clone.ID == original.ID || clone.PublicKey == original.PublicKey || clone.HasJoined() || !strings.Contains(clone.Renewed, "another machine") {
		t.Errorf("the clone is %+v, the original %+v", clone, original)
	}
	if again := identity(t, dir, "machine-2"); again.ID != clone.ID || again.Renewed != "" {
		t.Errorf("got %+v, want %+v", again, clone)
	}
}

func TestIdentityWithoutHardware(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := identity(t, dir, "")
	for _, hardware := range []string{"", "machine-1", "", "machine-1"} {
		if got := identity(t, dir, hardware); got.ID != first.ID {
			t.Errorf("with hardware %q: got %+v, want %+v", hardware, got, first)
		}
	}
	if got := identity(t, dir, "machine-2"); got.ID == first.ID {
		t.Error("once it was bound, another machine has the same identity")
	}
}

func TestDamagedIdentityIsMadeAnew(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{", "null", "{}", `{"id": "a"}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "node.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := identity(t, dir, "machine-1"); got.ID == "" || !strings.Contains(got.Renewed, "damaged") {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

func TestIdentityIsSecret(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "agent")
	id := identity(t, dir, "serial-number-1")
	join(t, id)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %s", path, info.Mode())
		}
		if e.IsDir() {
			return nil
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), "serial-number-1") {
			t.Errorf("%s holds the machine's number", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestIdentityErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("no randomness")
	_, err := agent.LoadIdentity(t.TempDir(), "", func() (string, []byte, error) { return "", nil, broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.LoadIdentity(file, "", trust.NewUserKey); err == nil {
		t.Error("a file is no folder")
	}
	id := identity(t, t.TempDir(), "")
	err = id.Join(func(string, cluster.NodeID) (string, error) { return "", broken })
	if !errors.Is(err, broken) || id.HasJoined() {
		t.Errorf("got %v, joined %t", err, id.HasJoined())
	}
}
