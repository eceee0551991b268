package cmd

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/hwmon"
	"github.com/mlxctl/mlxctl/internal/library"
	"github.com/mlxctl/mlxctl/internal/reach"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// newAgent is the process that runs models on this machine; the keeper runs it.
func newAgent(d *deps) *cobra.Command {
	dm := &daemon{name: "agent"}
	cmd := dm.command(d, "Join this Mac to a cluster with a token, or leave it", serveUnit)
	cmd.Hidden = false // what runs models is not for people, what is below it is
	cmd.AddCommand(newAgentJoin(d, nil), newAgentLeave(d, nil), newAgentHost(d))
	return cmd
}

// serveAgent runs models until ctx ends.
func serveAgent(ctx context.Context, h *daemonHome) error {
	monitor := hwmon.New(hwmon.Options{Log: h.slog})
	defer monitor.Close()
	hardwareID, err := monitor.HardwareID(ctx)
	if err != nil { // as in many containers; then a cloned disk cannot be told from the original
		h.slog.Warn("this machine does not say who it is; the node's id is bound to its home alone", "err", err)
	}
	identity, err := agent.LoadIdentity(filepath.Join(h.home, "agent"), hardwareID, trust.NewUserKey)
	if err != nil {
		return err
	}
	if identity.Renewed != "" {
		h.slog.Info("this node has a new identity", "node", identity.ID, "reason", identity.Renewed)
	}
	link, err := reach.OpenLink(h.home, identity.ID, h.build.Version, h.slog)
	if err != nil {
		return err
	}
	defer link.Close()
	o := agent.Options{ID: identity.ID, Identity: h.ownIdentity(identity), Name: h.nodeName(), Version: h.build.Version, Home: h.home}
	if h.node != nil {
		if err := usePython(h.node.Python); err != nil {
			return err
		}
		var dialer *reach.Dialer
		if o.Bus, dialer, err = h.nodeBus(identity, link); err == nil {
			defer dialer.Close()
			o.OnLink = dialer.Report
		}
	} else {
		o.Bus, err = h.agentBus(identity)
		o.OnLink = func(connected bool, err error) { link.Set(linkOver(o.Bus.URLs, connected, err)) }
	}
	if err != nil {
		return err
	}
	models := h.local.Models
	lib, err := library.Open(library.Options{CacheDir: h.cache, HubDirs: h.hubDirs(), Settings: librarySettings(models)})
	if err != nil {
		return err
	}
	h.clearFailure("agent")
	o.Defaults, o.Models = modelOptions(models, h.home)
	o.Library, o.Monitor, o.Launcher = lib, monitor, h.engine.launcher(h.home, h.cache, h.slog)
	o.BudgetBytes, o.StepTarget, o.Log = models.MemoryBytes, models.StepTime, h.slog
	return agent.New(o).Run(ctx)
}

// nodeName is what the node is called; empty means the host's own name.
func (h *daemonHome) nodeName() string {
	if h.node != nil {
		return h.node.Name
	}
	return ""
}

// linkOver says how the agent stands with a controller that has one place.
func linkOver(urls []string, connected bool, err error) plan.Link {
	l := reach.LinkOf(connected, err)
	if connected && len(urls) == 1 {
		l.URL = urls[0]
	}
	return l
}

// agentBus describes the agent's connection. The agent of the controller's own machine is signed on the spot: who runs
// as this user could sign it anyway.
func (h *daemonHome) agentBus(identity *agent.Identity) (bus.Options, error) {
	if h.local.NATSURL != "" {
		return h.local.externalBus()
	}
	authority, err := trust.Open(trustDir(h.home))
	if err != nil {
		return bus.Options{}, err
	}
	if err := identity.Join(authority.SignAgent); err != nil { // each time: the cluster may have been made anew
		return bus.Options{}, err
	}
	o := embeddedBus(authority, []string{"tls://" + reachable(h.local.NATSAddr)})
	o.CredentialsFile = identity.CredentialsPath
	return o, nil
}

// ownIdentity is nil where the agent connects with credentials of the user's own, which are not the cluster's to renew.
func (h *daemonHome) ownIdentity(identity *agent.Identity) *agent.Identity {
	if h.local.NATSURL != "" {
		return nil
	}
	return identity
}

// hubDirs are where models are looked for: the user's own cache, and what the settings add.
func (h *daemonHome) hubDirs() []string {
	if len(h.local.Models.HubDirs) == 0 {
		return nil
	}
	return append(library.UserHubs(), h.local.Models.HubDirs...)
}
