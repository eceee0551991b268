// Command up leaves a lab standing, to try mlxctl by hand, says how to get in, and removes it again.
//
//	go run ./internal/lab/up -hosts 8 -binary bin/mlxctl
//	go run ./internal/lab/up -down [FOLDER...]
//	go run ./internal/lab/up -check     says on standard error if this machine cannot have a lab
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/mlxctl/mlxctl/internal/lab"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	cancel()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	hosts := flags.Int("hosts", 8, "hosts besides the operator's")
	binary := flags.String("binary", "", "what the operator's host has as mlxctl")
	cache := flags.String("cache", prepared(), "cache folder of mlxctl whose Python environment every host has; \"\" for blank hosts")
	wheels := flags.String("wheels", "", "folder of wheels that the operator's host has as /opt/wheels")
	down := flags.Bool("down", false, "remove the labs that stand, or those in the folders named")
	check := flags.Bool("check", false, "only say if this machine cannot have a lab")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case *check:
		err := lab.Available(ctx)
		if errors.Is(err, lab.ErrUnavailable) {
			_, err = fmt.Fprintf(errOut, "\n!!! %v\n!!! Nothing that needs a network of hosts was tested here.\n\n", err)
		}
		return err
	case *down:
		gone, err := lab.Remove(ctx, flags.Args()...)
		for _, dir := range gone {
			_, _ = fmt.Fprintln(out, "removed", dir)
		}
		return err
	}
	o := lab.Options{Hosts: *hosts, Cache: *cache, Wheels: *wheels, Standing: true}
	if *binary != "" {
		var err error
		if o.Binary, err = filepath.Abs(*binary); err != nil {
			return err
		}
	}
	l, err := lab.Start(ctx, o)
	if err != nil {
		return err
	}
	if o.Cache == "" {
		_, _ = fmt.Fprint(errOut, "The hosts are blank: they have no packages for workers, and nowhere to get them from but the operator.\n\n")
	}
	return tell(out, l)
}

// prepared is a cache of this user with a Python environment in it: that of the tests, or mlxctl's own; else "".
func prepared() string {
	dirs := []string{os.Getenv("MLXCTL_TEST_CACHE")}
	if user, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(user, "mlxctl-test"), filepath.Join(user, "mlxctl"))
	}
	for _, dir := range dirs {
		stamps, _ := filepath.Glob(filepath.Join(dir, "python", "*", "mlxctl.json")) // no cache has a name that is a bad pattern
		if dir != "" && len(stamps) > 0 {
			return dir
		}
	}
	return ""
}

// tell says what there is and how to get at it.
func tell(out io.Writer, l *lab.Lab) error {
	for _, h := range l.All() {
		if _, err := fmt.Fprintf(out, "%-8s %-12s process %-7d %s\n", h.Name, h.IP(), h.PID(), h.Label); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, `
A shell on the operator's host, where ssh to the others works and "mlxctl up --yes" makes them one cluster:
  nsenter --target %d --net --mount --uts --pid -- su - %s
A shell as root on any of them, where iptables and tc break its network:
  nsenter --target PROCESS --net --mount --uts --pid -- su -
Remove this lab, and no other:
  make lab-down LAB=%s
`, l.Operator.PID(), l.Operator.User, l.Dir())
	return err
}
