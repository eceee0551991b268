package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/service"
)

// newKeep is the process that runs the others in the background.
func newKeep(d *deps) *cobra.Command {
	inherit := ""
	cmd := &cobra.Command{
		Use: "keep", Short: "Run controller and agent and restart them", Hidden: true, Args: between(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runKeep(cmd.Context(), d, inherit) },
	}
	cmd.Flags().StringVar(&inherit, service.InheritFlag, "", "descriptor and address of the gateway's socket")
	return cmd
}

func runKeep(ctx context.Context, d *deps, inherit string) error {
	dirs, err := d.dirs()
	if err != nil {
		return err
	}
	_, _, digest, err := readSettings(dirs.Home)
	if err != nil {
		return err
	}
	out, err := service.OpenLog(dirs.Home, "keeper")
	if err != nil {
		return err
	}
	defer out.Close() //nolint:errcheck // the process ends
	log := slog.New(slog.NewTextHandler(out, nil))
	o := d.services(dirs.Home, digest, log)
	o.Inherit = inherit
	err = service.Keep(ctx, o)
	if errors.Is(err, service.ErrRunning) {
		log.Info("another keeper runs; nothing to do")
		return nil
	}
	return err
}

// daemon is what the long-running commands share: their log, and a context that ends with a signal or their keeper.
type daemon struct {
	name     string
	lifeline int
	socket   int
}

func (dm *daemon) command(d *deps, short string, serve func(context.Context, *daemonHome) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: dm.name, Short: short, Hidden: true, Args: between(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return dm.run(cmd.Context(), d, serve) },
	}
	cmd.Flags().IntVar(&dm.lifeline, service.LifelineFlag, 0, "descriptor that ends with the keeper")
	if dm.name == "controller" {
		cmd.Flags().IntVar(&dm.socket, service.SocketFlag, 0, "descriptor on which the keeper listens for the gateway")
	}
	_ = cmd.Flags().MarkHidden(service.LifelineFlag) // fails only for a flag that is not there
	return cmd
}

// daemonHome is what a daemon is given.
type daemonHome struct {
	*deps
	home  string
	cache string
	local *localSettings
	node  *plan.Settings // of a node of another machine's cluster; nil for a service of this one
	slog  *slog.Logger

	socket int             // on which the keeper listens for the gateway; 0 for none
	finish <-chan struct{} // of service.Watch; nil: never
}

func (dm *daemon) run(ctx context.Context, d *deps, serve func(context.Context, *daemonHome) error) error {
	dirs, err := d.dirs()
	if err != nil {
		return err
	}
	local, node, digest, err := readSettings(dirs.Home)
	if err != nil {
		return err
	}
	if local == nil || (node != nil && dm.name != "agent") {
		return notRunning(dirs.Home)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(local.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	h := &daemonHome{deps: d, home: dirs.Home, cache: dirs.Cache, local: local, node: node, socket: dm.socket}
	handler := &slog.HandlerOptions{Level: level}
	if dm.lifeline == 0 && node == nil {
		h.slog = slog.New(slog.NewTextHandler(d.streams.Err, handler)) // in the foreground, for a person
	} else {
		if err := os.MkdirAll(filepath.Dir(service.LogPath(dirs.Home, dm.name)), 0o700); err != nil {
			return fmt.Errorf("make folder of logs: %w", err)
		}
		out, err := service.OpenLog(dirs.Home, dm.name)
		if err != nil {
			return err
		}
		defer out.Close() //nolint:errcheck // the process ends
		h.slog = slog.New(slog.NewTextHandler(out, handler))
	}
	ctx, h.finish, err = service.Watch(ctx, d.services(dirs.Home, digest, h.slog), dm.lifeline)
	if err != nil {
		return err
	}
	h.slog.Info("starting", "service", dm.name, "version", d.build.Version, "commit", d.build.Commit)
	err = serve(ctx, h)
	if ctx.Err() != nil || err == nil {
		h.slog.Info("ended", "service", dm.name, "err", err)
		return nil // it was asked to
	}
	h.slog.Error("failed", "service", dm.name, "err", err)
	if writeErr := writeFailure(dirs.Home, dm.name, err); writeErr != nil {
		h.slog.Error("cannot note the failure", "err", writeErr)
	}
	return err
}
