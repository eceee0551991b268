package service

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// limited is what a start in a process came to that may write no big file.
type limited struct {
	Changed bool
	Error   *cluster.Error
}

// startLimited is that process. The copy of a binary is more than it may write.
func startLimited(ctx context.Context, o Options) error {
	const most = 1 << 20
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: most, Max: most}); err != nil {
		return err
	}
	changed, err := Start(ctx, o)
	return json.NewEncoder(os.Stdout).Encode(limited{changed, cluster.AsError(err)})
}

// No space for the copy changes nothing: what runs goes on.
func TestNoSpaceNoChange(t *testing.T) {
	o := newCopied(t, filepath.Join(t.TempDir(), "versions"))
	changesNothing(t, o, "no space left", func(next Options) (bool, error) {
		cmd := exec.CommandContext(t.Context(), next.Exe, "limited")
		cmd.Env = append(os.Environ(), "SERVICE_TEST_VERSION="+next.Version)
		out, err := cmd.Output()
		if err != nil {
			return false, err
		}
		var got limited
		if err := json.Unmarshal(out, &got); err != nil {
			return false, err
		}
		return got.Changed, got.Error
	})
}
