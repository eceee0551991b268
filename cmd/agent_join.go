package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/enrol"
	"github.com/mlxctl/mlxctl/internal/hwmon"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/trust"
)

const (
	// joinTimeout bounds the joining, the start of the node apart.
	joinTimeout = 30 * time.Second
	// mostTokenInput bounds what is read from standard input as a token.
	mostTokenInput = 8 << 10
)

type joinOptions struct {
	*deps
	output *outputFlags
	token  string
	name   string
	unit   string
}

// joinResult is the shape of `agent join -o json`.
type joinResult struct {
	Node    cluster.NodeID `json:"node"`
	Name    string         `json:"name"`
	Cluster string         `json:"cluster"`
	Home    string         `json:"home"`
	// Service says how the node runs from now on; empty where the user has to start it.
	Service string `json:"service,omitempty"`
}

func newAgentJoin(d *deps, runF func(context.Context, *joinOptions) error) *cobra.Command {
	if runF == nil {
		runF = runAgentJoin
	}
	opts := &joinOptions{deps: d}
	cmd := &cobra.Command{
		Use: "join TOKEN", Short: "Have this Mac join a cluster", Args: exactly(1, "the token"),
		Long: `join makes this Mac a node of the cluster that the token is of; ` + "`mlxctl token create`" + ` on the controller's Mac makes
one. The key of the node is made here and stays here. With - the token is read from standard input.`,
		Example: `  mlxctl agent join mlx1.eyJ1cmxzIjpbImh0dHBzOi8v…
  pbpaste | mlxctl agent join -`,
		Annotations: exits("0", "1", "2", "4", "7"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.token = args[0]
			return runF(cmd.Context(), opts)
		},
	}
	opts.output = addOutput(cmd, objectFormats()...)
	cmd.Flags().StringVar(&opts.name, "name", "", "what the node is called; this Mac's own name unless given")
	cmd.Flags().StringVar(&opts.unit, "unit", "", "who runs the agent: launchd-daemon, launchd-agent, systemd-user, runit or keeper (default the best there is)")
	return cmd
}

func runAgentJoin(ctx context.Context, opts *joinOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	if err := checkUnit(opts.unit); err != nil {
		return err
	}
	token, err := opts.readToken()
	if err != nil {
		return err
	}
	home, err := opts.nodeHome()
	if err != nil {
		return err
	}
	if local, _, err := readLocal(home); err != nil || local != nil {
		if err == nil {
			err = cluster.Errorf(cluster.CodeConflict, "this Mac runs a controller of its own from %s", home).
				WithHint("`mlxctl down --purge` ends it; or set MLXCTL_HOME to another folder")
		}
		return err
	}
	joining, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	identity, jwt, s, err := opts.join(joining, home, token)
	if err != nil {
		return err
	}
	r := joinResult{Node: identity.ID, Name: s.Name, Cluster: s.Cluster, Home: home}
	if opts.installNode != nil {
		r.Service, err = opts.installNode(ctx, home, jwt, s, plan.UnitKind(opts.unit))
	} else {
		err = writeJoined(home, identity, jwt, s)
	}
	if err != nil {
		return joinedHalfway(err, r)
	}
	if out.Format != printer.Table {
		return printer.Object(opts.streams.Out, out.Format, r)
	}
	if r.Service == "" {
		return opts.say("this Mac is a node of %s now; start it with: MLXCTL_HOME=%s mlxctl agent", printer.Clean(r.Cluster), home)
	}
	return opts.say("this Mac is a node of %s now, and runs as %s", printer.Clean(r.Cluster), printer.Clean(r.Service))
}

// joinedHalfway is the error of a node that was admitted and does not run.
func joinedHalfway(failed error, r joinResult) error {
	e := *cluster.AsError(failed)
	e.Message = fmt.Sprintf("%s; %s has this Mac in its list already, as node %s, and the token is used", failed.Error(), printer.Clean(r.Cluster), r.Node)
	again := "then the same command again, with the same token while that is good, else with a new one"
	if e.Hint != "" {
		again = e.Hint + "; " + again
	}
	return e.WithHint("%s", again)
}

func (opts *joinOptions) readToken() (enrol.Token, error) {
	text := opts.token
	if text == "-" {
		data, err := io.ReadAll(io.LimitReader(opts.streams.In, mostTokenInput))
		if err != nil {
			return enrol.Token{}, fmt.Errorf("read token: %w", err)
		}
		text = string(data)
	}
	return enrol.ParseToken(text)
}

// nodeHome is the folder of a node, on every system the same, so that who looks for it over SSH finds it.
func (d *deps) nodeHome() (string, error) {
	if home, ok := d.env("MLXCTL_HOME"); ok && home != "" {
		abs, err := filepath.Abs(home)
		if err != nil {
			return "", fmt.Errorf("find the node's folder: %w", err)
		}
		return abs, nil
	}
	user, ok := d.env("HOME")
	if !ok || user == "" {
		return "", usagef("neither HOME nor MLXCTL_HOME is set")
	}
	return filepath.Join(user, ".mlxctl"), nil
}

// join makes the key here and has it signed there. Nothing but the key is written: what came of it is not to replace what
// this Mac has of another cluster before it is known to work. Whoever is killed on the way joins again with the same token.
func (opts *joinOptions) join(ctx context.Context, home string, token enrol.Token) (*agent.Identity, string, plan.Settings, error) {
	var s plan.Settings
	monitor := hwmon.New(hwmon.Options{Log: slog.New(slog.DiscardHandler)})
	defer monitor.Close()
	hardwareID, err := monitor.HardwareID(ctx)
	if err != nil {
		opts.log().Warn("this machine does not say who it is; the node's id is bound to its home alone", "err", err)
	}
	identity, err := agent.LoadIdentity(filepath.Join(home, "agent"), hardwareID, trust.NewUserKey)
	if err != nil {
		return nil, "", s, err
	}
	name := opts.name
	if name == "" {
		name = strings.TrimSuffix(hostName(), ".local")
	}
	answer, err := enrol.Join(ctx, token, enrol.Node{ID: identity.ID, Key: identity.PublicKey, Name: name, Hardware: identity.Hardware, Sign: identity.Sign})
	if err != nil {
		return nil, "", s, err
	}
	if err := json.Unmarshal(answer.Settings, &s); err != nil {
		return nil, "", s, cluster.Errorf(cluster.CodeInternal, "read the controller's settings: %v", err)
	}
	s.CA, s.Name = answer.CA, name
	return identity, answer.JWT, s, nil
}

// writeJoined writes down what a node is started with by hand. What is written last is what makes the Mac a node.
func writeJoined(home string, identity *agent.Identity, jwt string, s plan.Settings) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	if err := config.WriteFile(filepath.Join(home, "node.json"), append(data, '\n')); err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	return identity.Join(func(string, cluster.NodeID) (string, error) { return jwt, nil })
}
