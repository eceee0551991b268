package cmd

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/service"
)

// What `up --local` would do with the services of this machine, beside whatStart and whatNothing.
const whatRestart = "restart"

// localPreview is the shape of `up --local --dry-run -o json`.
type localPreview struct {
	What    string `json:"what"` // start, restart or nothing
	Reason  string `json:"reason,omitempty"`
	Cluster string `json:"cluster"`
	HTTP    string `json:"http"` // base URL of the gateway, then
}

// previewLocal says what `up --local` would do, and changes nothing.
func (opts *upOptions) previewLocal(ctx context.Context, cfg *config.Config, out printer.Options) error {
	home := cfg.Dirs.Home
	before, digest, err := readLocal(home)
	if err != nil {
		return err
	}
	if err := checkName(cfg, before); err != nil {
		return err
	}
	status, err := service.Read(opts.services(home, digest, opts.log()))
	if err != nil {
		return err
	}
	then, err := opts.wanted(cfg, before, status.Running)
	if err != nil {
		return err
	}
	p := localPreview{Cluster: then.Name, HTTP: "http://" + then.HTTPAddr}
	switch same, err := isSame(before, then); {
	case err != nil:
		return err
	case !status.Running:
		p.What = whatStart
	case status.Version != opts.services(home, digest, nil).Version:
		p.What, p.Reason = whatRestart, "they run "+runsOther(status, opts.services(home, digest, nil))+" of mlxctl, and this is "+opts.build.Version
	case !same || status.Settings != digest:
		p.What, p.Reason = whatRestart, "they run with other settings"
	case !opts.answers(ctx, cfg):
		p.What, p.Reason = whatRestart, "they do not answer"
	default:
		p.What = whatNothing
	}
	if out.Format != printer.Table {
		return printer.Object(opts.streams.Out, out.Format, p)
	}
	_, err = fmt.Fprintln(opts.streams.Out, p.text())
	return err
}

func (p *localPreview) text() string {
	name := printer.Clean(p.Cluster)
	switch p.What {
	case whatStart:
		return fmt.Sprintf("would start cluster %s on this machine alone, with its API on %s/v1", name, p.HTTP)
	case whatRestart:
		return fmt.Sprintf("would start the services of cluster %s again: %s", name, p.Reason)
	default:
		return fmt.Sprintf("cluster %s is up already; nothing to do", name)
	}
}

// answers says whether the controller of this machine does.
func (opts *upOptions) answers(ctx context.Context, cfg *config.Config) bool {
	soon, cancel := context.WithTimeout(ctx, hungAfter)
	defer cancel()
	c, err := opts.connect(soon, cfg)
	if err != nil {
		return false
	}
	defer c.Close()
	_, err = c.Snapshot(soon)
	return err == nil
}

// wanted is what the services of this machine should run with.
func (d *deps) wanted(cfg *config.Config, before *localSettings, isRunning bool) (*localSettings, error) {
	l, err := planServices(cfg, before, isRunning)
	if err == nil {
		l.Python, _ = d.env(pythonVariable)
	}
	return l, err
}

// takesOver is the command with which the services of this machine take over settings that they do not run with; empty
// where there is nothing to take over.
func (d *deps) takesOver(cfg *config.Config) string {
	home := cfg.Dirs.Home
	before, digest, err := readLocal(home)
	if err != nil || before == nil {
		return ""
	}
	status, err := service.Read(d.services(home, digest, nil))
	if err != nil || !status.Running {
		return ""
	}
	then, err := d.wanted(cfg, before, true)
	if err != nil {
		return "" // the command that starts them says why
	}
	then.Python = before.Python // no setting
	if same, err := isSame(before, then); err != nil || (same && status.Settings == digest) {
		return ""
	}
	if isOnNetwork(before.NATSAddr) {
		return "mlxctl up"
	}
	return "mlxctl up --local"
}

// isSame says whether two settings of services are written down alike.
func isSame(a, b *localSettings) (bool, error) {
	one, err := json.Marshal(a)
	if err != nil {
		return false, fmt.Errorf("encode settings of the services: %w", err)
	}
	other, err := json.Marshal(b)
	if err != nil {
		return false, fmt.Errorf("encode settings of the services: %w", err)
	}
	return string(one) == string(other), nil
}

// checkName refuses another name than the one that the cluster was made with.
func checkName(cfg *config.Config, before *localSettings) error {
	if before != nil && cfg.Name != "" && cfg.Name != before.Name {
		return cluster.Errorf(cluster.CodeInvalid, "this cluster is named %s; a name is given when it is first made", before.Name).
			WithHint("leave out the name, or `mlxctl down --purge` and begin anew")
	}
	return nil
}
