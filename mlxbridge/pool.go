package mlxbridge

import (
	"context"
	"log/slog"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// PoolOptions say what a Pool may use. Launcher is required; zero values elsewhere choose the default.
type PoolOptions struct {
	Launcher    Launcher
	BudgetBytes int64         // for all models together; zero means no limit
	MaxRows     int           // requests that one model runs at once; zero means 32
	IdleTTL     time.Duration // a model that nobody asked for that long is unloaded; zero means never
	Log         *slog.Logger
	OnEvent     func(cluster.Event)
}

// Pool keeps the models in memory on this machine.
type Pool struct{ o PoolOptions }

func NewPool(o PoolOptions) *Pool { return &Pool{o: o} }

func (p *Pool) Load(ctx context.Context, m cluster.Model, dir string, pinned bool) error { return nil }

func (p *Pool) Unload(ctx context.Context, name string, force bool) error { return nil }

func (p *Pool) Generate(ctx context.Context, m cluster.Model, dir string, req *cluster.Request, emit func(cluster.Chunk)) error {
	return nil
}

func (p *Pool) Replicas() []cluster.Replica { return nil }

func (p *Pool) PlannedBytes() int64 { return 0 }

func (p *Pool) Close(ctx context.Context) error { return nil }
