package unit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/service"
)

// keeper is our own, for a host that has nothing else. It has no file: the mark that services of a home are wanted, which
// it reads and this driver writes, is all there is.
type keeper struct{ Spec }

var _ Driver = (*keeper)(nil)

// KeeperOptions describe the keeper of a node's home, to itself and to who starts it.
func KeeperOptions(home string, log *slog.Logger) service.Options {
	current, _ := os.Readlink(filepath.Join(home, "current"))    // none is another version than any
	settings, _ := os.ReadFile(filepath.Join(home, "node.json")) // so are none
	sum := sha256.Sum256(settings)
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return service.Options{
		Home: home, Exe: filepath.Join(home, "current", "mlxctl"), Arg0: "mlxctl", KeepArgs: []string{"keep"},
		Children: []service.Child{{Name: "agent", Args: []string{"agent"}}},
		Env:      []string{"MLXCTL_HOME=" + home, "MLXCTL_CACHE=" + filepath.Join(home, "cache")},
		Version:  filepath.Base(current), Settings: hex.EncodeToString(sum[:8]), Log: log,
	}
}

func (k *keeper) Kind() plan.UnitKind { return plan.UnitKeeper }

func (k *keeper) available(context.Context) error { return nil }

// keeperText stands for a file.
const keeperText = "keeper\n"

func (k *keeper) Text() ([]byte, error) { return []byte(keeperText), nil }

func (k *keeper) mark() string { return filepath.Join(k.Home, "run", "keeper.unit") }

func (k *keeper) Installed() ([]byte, error) { return readFile(k.mark()) }

func (k *keeper) Install(_ context.Context, text []byte) error {
	return writeFile(k.mark(), text, 0o600)
}

func (k *keeper) Start(ctx context.Context) error {
	return k.locked(ctx, func(o service.Options) error {
		if err := service.Stop(ctx, o); err != nil {
			return err
		}
		_, err := service.Start(ctx, o)
		return err
	})
}

func (k *keeper) Stop(ctx context.Context) error {
	return k.locked(ctx, func(o service.Options) error { return service.Stop(ctx, o) })
}

func (k *keeper) locked(ctx context.Context, do func(service.Options) error) error {
	o := KeeperOptions(k.Home, nil)
	release, err := service.Acquire(ctx, o)
	if err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	defer release()
	if err := do(o); err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	return nil
}

func (k *keeper) Remove(ctx context.Context) error {
	return errors.Join(k.Stop(ctx), removeFile(k.mark()))
}

func (k *keeper) Status(context.Context) (Status, error) {
	s, err := service.Read(KeeperOptions(k.Home, nil))
	if err != nil {
		return Status{}, fmt.Errorf("keeper: %w", err)
	}
	out := Status{Loaded: s.Desired, Wanted: s.Desired}
	if s.Running {
		for _, c := range s.Children {
			out.PID, out.Ended = c.PID, c.Restarts
		}
	}
	out.Running = out.PID > 0
	return out, nil
}
