package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// No space for what is to be written leaves the node as it was, and says so.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: a file system of limited size takes root")
	}
	n := newNode(t, plan.UnitKeeper)
	if err := os.MkdirAll(n.home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", n.home, "tmpfs", 0, "size=256m"); err != nil {
		t.Skipf("SKIPPED: cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		n.end()
		if err := syscall.Unmount(n.home, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	v1, v2 := n.binary("v1"), n.binary("v2")
	n.installed(v1)
	before := n.files()
	filler := filepath.Join(n.home, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for size := len(block); size >= 512; {
		if _, err := f.Write(block[:size]); err != nil {
			size /= 2
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	out := n.run(operator{user: "other"}, n.order(v2), nil)
	if e := out.done.Error; e == nil || e.Code != cluster.CodeConflict || !strings.Contains(e.Message, "no space left") || !strings.Contains(e.Message, n.home) {
		t.Errorf("full: %+v", e)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	n.await(v1)
	if after := n.files(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	n.installed(v2)
	n.await(v2)
}
