package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/enrol"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

const (
	defaultTokenLife = 15 * time.Minute
	// listenTimeout is how long the controller may take to listen for joins.
	listenTimeout = 5 * time.Second
)

type tokenOptions struct {
	*deps
	output *outputFlags
	ttl    time.Duration
	id     string
}

// tokenResult is the shape of `token create -o json`.
type tokenResult struct {
	ID        string    `json:"id"`
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
	URLs      []string  `json:"urls"`
}

// tokenItem is the shape of one token in `token list -o json`.
type tokenItem struct {
	trust.Token

	State    string `json:"state"`               // good, used or expired
	NodeName string `json:"node_name,omitempty"` // of the node that joined with it, while it is one
}

func newToken(d *deps, runF func(context.Context, *tokenOptions) error) *cobra.Command {
	return group("token", "Let Macs join without SSH",
		newTokenCreate(d, runF), newTokenList(d, runF), newTokenRemove(d, runF))
}

func newTokenCreate(d *deps, runF func(context.Context, *tokenOptions) error) *cobra.Command {
	if runF == nil {
		runF = runTokenCreate
	}
	opts := &tokenOptions{deps: d}
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token that lets one Mac join", Args: between(0, 0, ""),
		Long: `create prints a token for ` + "`mlxctl agent join`" + ` on the Mac that is to join. It is good for one Mac and a short time, and
the controller listens for joins only while a token is good. Whoever has it can join: hand it over as you would a password.`,
		Example: `  mlxctl token create
  mlxctl token create --ttl 1h | ssh mini mlxctl agent join -`,
		Annotations: exits("0", "1", "2", "6", "7"),
		RunE:        func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, objectFormats()...)
	cmd.Flags().DurationVar(&opts.ttl, "ttl", defaultTokenLife, "how long it is good; at most "+trust.MaxTokenLife.String())
	return cmd
}

func runTokenCreate(ctx context.Context, opts *tokenOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	c, _, err := opts.runningCluster()
	if err != nil {
		return err
	}
	if !isOnNetwork(c.local.NATSAddr) || c.local.EnrolAddr == "" {
		return cluster.Errorf(cluster.CodeConflict, "no other Mac can reach this cluster: it listens on %s only", c.local.NATSAddr).
			WithHint("`mlxctl up` opens it to the network")
	}
	t, secret, err := c.authority.CreateToken(time.Now(), opts.ttl)
	if err != nil {
		return err
	}
	if err := awaitListener(ctx, reachable(c.local.EnrolAddr)); err != nil {
		return errors.Join(cluster.Errorf(cluster.CodeUnreachable, "the controller does not listen for joins on %s: %v", c.local.EnrolAddr, err).
			WithHint("`mlxctl logs controller` says why"), c.authority.RemoveToken(t.ID))
	}
	urls, err := networkURLs("https://", c.local.EnrolAddr)
	if err != nil {
		return errors.Join(err, c.authority.RemoveToken(t.ID))
	}
	r := tokenResult{ID: t.ID, ExpiresAt: t.ExpiresAt, URLs: urls}
	r.Token = enrol.Token{URLs: r.URLs, Pin: c.authority.Pin(), ID: t.ID, Secret: secret}.String()
	if out.Format != printer.Table {
		return printer.Object(opts.streams.Out, out.Format, r)
	}
	if err := opts.say("within %s, on the Mac that is to join: mlxctl agent join TOKEN\nit will look for this one at %s\n",
		printer.Age(opts.ttl), hostsOf(r.URLs)); err != nil {
		return err
	}
	if _, err := io.WriteString(opts.streams.Out, r.Token+"\n"); err != nil {
		return fmt.Errorf("print token: %w", err)
	}
	return nil
}

// awaitListener waits until somebody listens on an address of this machine.
func awaitListener(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close() //nolint:wrapcheck // nothing was sent
		}
		select {
		case <-ctx.Done():
			return err //nolint:wrapcheck // the caller says what for
		case <-tick.C:
		}
	}
}

func newTokenList(d *deps, runF func(context.Context, *tokenOptions) error) *cobra.Command {
	if runF == nil {
		runF = runTokenList
	}
	opts := &tokenOptions{deps: d}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List join tokens", Args: between(0, 0, ""), Annotations: exits("0", "1", "2", "6", "7"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runF(cmd.Context(), opts) },
	}
	opts.output = addOutput(cmd, listFormats()...)
	return cmd
}

func runTokenList(_ context.Context, opts *tokenOptions) error {
	out, err := opts.output.options()
	if err != nil {
		return err
	}
	c, err := opts.ownCluster()
	if err != nil {
		return err
	}
	tokens, err := c.authority.Tokens()
	if err != nil {
		return err
	}
	nodes, err := roster.Open(rosterPath(c.home)).List()
	if err != nil {
		return err
	}
	now := time.Now()
	var items []tokenItem
	for _, t := range tokens {
		item := tokenItem{Token: t, State: tokenState(&t, now)}
		if t.Used != nil {
			if n, ok := nodeOf(nodes, string(t.Used.Node)); ok {
				item.NodeName = n.Name
			}
		}
		items = append(items, item)
	}
	list := printer.List[tokenItem]{
		Name:  func(t tokenItem) string { return t.ID },
		Empty: "no join tokens; `mlxctl token create` makes one",
		Columns: []printer.Column[tokenItem]{
			{Header: "ID", Value: func(t tokenItem) string { return t.ID }},
			{Header: "STATE", Value: func(t tokenItem) string { return t.State }},
			{Header: "ENDS IN", Right: true, Value: func(t tokenItem) string {
				if t.IsExpired(now) {
					return ""
				}
				return timeLeft(t.ExpiresAt.Sub(now))
			}},
			{Header: "AGE", Right: true, Value: func(t tokenItem) string { return printer.Age(now.Sub(t.CreatedAt)) }},
			{Header: "NODE", Value: func(t tokenItem) string {
				if t.Used == nil {
					return ""
				}
				return first(t.NodeName, string(t.Used.Node))
			}},
		},
	}
	return list.Print(opts.streams, out, items)
}

// timeLeft is printer.Age rounded up: what ends in 4m59s has 5m left.
func timeLeft(d time.Duration) string {
	unit := time.Hour
	switch {
	case d < time.Minute:
		unit = time.Second
	case d < time.Hour:
		unit = time.Minute
	}
	return printer.Age(d + unit - 1)
}

func tokenState(t *trust.Token, now time.Time) string {
	switch {
	case t.Used != nil:
		return "used"
	case t.IsExpired(now):
		return "expired"
	}
	return "good"
}

func newTokenRemove(d *deps, runF func(context.Context, *tokenOptions) error) *cobra.Command {
	if runF == nil {
		runF = runTokenRemove
	}
	opts := &tokenOptions{deps: d}
	cmd := &cobra.Command{
		Use: "rm ID", Aliases: []string{"remove"}, Short: "Take a join token back", Args: exactly(1, "the token's id"),
		Annotations: exits("0", "1", "2", "6", "7"),
		Long:        "rm has a token be good for nobody. A node that joined with it stays; `mlxctl nodes rm` removes that.",
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.id = args[0]
			return runF(cmd.Context(), opts)
		},
	}
	return cmd
}

func runTokenRemove(_ context.Context, opts *tokenOptions) error {
	c, err := opts.ownCluster()
	if err != nil {
		return err
	}
	err = c.authority.RemoveToken(opts.id)
	if cluster.CodeOf(err) == cluster.CodeInvalid {
		return &noSuchError{cluster.AsError(err)}
	}
	if err != nil {
		return err
	}
	return opts.say("token %s is good for nobody any more", opts.id)
}
