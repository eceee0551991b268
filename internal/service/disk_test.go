package service

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// No space for the copy changes nothing: what runs goes on.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: a file system of limited size takes root")
	}
	versions := filepath.Join(t.TempDir(), "versions")
	if err := os.Mkdir(versions, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", versions, "tmpfs", 0, "size=256m"); err != nil {
		t.Skipf("SKIPPED: cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(versions, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	changesNothing(t, newCopied(t, versions), "no space left", func(next *Options) {
		if err := os.Truncate(next.Exe, 512<<20); err != nil {
			t.Error(err)
		}
	})
}
