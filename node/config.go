package node

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/conf"
	"github.com/keystead/keystead/serve"
)

// ExampleConfig is a configuration with every field, its default, and what it
// trusts whom for: the manual of a node.
//
//go:embed example.toml
var ExampleConfig string

// Config is a node's configuration file. ExampleConfig explains each field.
type Config struct {
	Dir      string          `toml:"dir"`
	Domain   keystead.Digest `toml:"domain"`
	Peer     PeerConfig      `toml:"peer"`
	API      APIConfig       `toml:"api"`
	Ops      OpsConfig       `toml:"ops"`
	TPM      TPMConfig       `toml:"tpm"`
	Store    StoreConfig     `toml:"store"`
	Objects  ObjectsConfig   `toml:"objects"`
	Evidence EvidenceConfig  `toml:"evidence"`
	Archive  ArchiveConfig   `toml:"archive"`
	Systems
	Log conf.Log `toml:"log"`
}

// PeerConfig is for the traffic between nodes.
type PeerConfig struct {
	Listen string `toml:"listen"`
}

// APIConfig is for the traffic of clients.
type APIConfig struct {
	Listen         string            `toml:"listen"`
	Plain          bool              `toml:"plain"`
	Clients        []keystead.Digest `toml:"clients"`
	Writers        []keystead.Digest `toml:"writers"`
	OpenWrites     bool              `toml:"open-writes"`
	MaxConnections int               `toml:"max-connections"`
	MaxStrangers   int               `toml:"max-strangers"`
	PerAddress     int               `toml:"max-connections-per-address"`
	MaxInFlight    int               `toml:"max-in-flight"`
	MaxRate        int               `toml:"max-rate"`
	TimeoutMS      int               `toml:"timeout-ms"`
}

// OpsConfig is for health checks and metrics.
type OpsConfig struct {
	Listen string `toml:"listen"`
}

// TPMConfig is where this machine's evidence comes from.
type TPMConfig struct {
	Path         string `toml:"path"`
	Root         string `toml:"root"`
	Note         string `toml:"note"`
	EverySeconds int    `toml:"every-s"`
}

// every is how often evidence is shown anew, and most how old it may be.
func (c *TPMConfig) every() time.Duration { return time.Duration(c.EverySeconds) * time.Second }
func (c *TPMConfig) most() time.Duration  { return 3 * c.every() }

// StoreConfig bounds what the store uses.
type StoreConfig struct {
	CacheMiB   int `toml:"cache-mib"`
	ReserveMiB int `toml:"reserve-mib"`
}

// ObjectsConfig bounds the objects that no entry of the ledger names yet.
type ObjectsConfig struct {
	PendingMiB     int `toml:"pending-mib"`
	PendingMinutes int `toml:"pending-minutes"`
}

// EvidenceConfig bounds what machines' evidence takes of this node. None of it changes a
// verdict: what does is a constant of the formats (docs/design/0014-bounds.md).
type EvidenceConfig struct {
	BundleMiB      int `toml:"bundle-mib"`
	MachineMiB     int `toml:"machine-mib"`
	PendingMiB     int `toml:"pending-mib"`
	NodeMiB        int `toml:"node-mib"`
	ConnectionsMiB int `toml:"connections-mib"`
	Judgements     int `toml:"judgements"`
	TurnMS         int `toml:"turn-ms"`
}

// maxBundleMiB is what a message between nodes holds, who hand bundles on to each other.
const maxBundleMiB = 16

// bounds are those of the API.
func (c *EvidenceConfig) bounds() serve.Evidence {
	return serve.Evidence{Bundle: int64(c.BundleMiB) << 20, Machine: int64(c.MachineMiB) << 20, Pending: int64(c.PendingMiB) << 20, Node: int64(c.NodeMiB) << 20}
}

func (c *EvidenceConfig) check() error {
	switch {
	case c.BundleMiB < 1 || c.BundleMiB > maxBundleMiB:
		return conf.Bad("evidence.bundle-mib must be 1 to %d, and is %d", maxBundleMiB, c.BundleMiB)
	case c.MachineMiB < c.BundleMiB || c.MachineMiB > 1<<20:
		return conf.Bad("evidence.machine-mib must be evidence.bundle-mib, %d, to %d, and is %d", c.BundleMiB, 1<<20, c.MachineMiB)
	case c.PendingMiB < 8*c.MachineMiB || c.PendingMiB > 1<<20:
		return conf.Bad("evidence.pending-mib must be eight times evidence.machine-mib, %d, to %d, and is %d", 8*c.MachineMiB, 1<<20, c.PendingMiB)
	case c.NodeMiB < maxBundleMiB || c.NodeMiB > 1<<20:
		return conf.Bad("evidence.node-mib must be %d to %d, and is %d", maxBundleMiB, 1<<20, c.NodeMiB)
	case c.ConnectionsMiB < 8*c.BundleMiB || c.ConnectionsMiB > 1<<20:
		return conf.Bad("evidence.connections-mib must be eight times evidence.bundle-mib, %d, to %d, and is %d", 8*c.BundleMiB, 1<<20, c.ConnectionsMiB)
	case c.Judgements < 0 || c.Judgements > 1<<10:
		return conf.Bad("evidence.judgements must be 0 (one for every two processors) to %d, and is %d", 1<<10, c.Judgements)
	case c.TurnMS < 100 || c.TurnMS > 600_000:
		return conf.Bad("evidence.turn-ms must be 100 to 600000, and is %d", c.TurnMS)
	}
	return nil
}

// ArchiveConfig bounds the archived evidence of admissions.
type ArchiveConfig struct {
	QuotaMiB int `toml:"quota-mib"`
}

// DefaultConfig is what an empty file means, save for the fields that it must set.
func DefaultConfig() Config {
	return Config{
		Dir:      "/var/lib/keystead",
		Peer:     PeerConfig{Listen: ":7100"},
		API:      APIConfig{Listen: "127.0.0.1:7200", MaxConnections: 1024, MaxStrangers: 512, PerAddress: 16, MaxInFlight: 16384, MaxRate: 50000, TimeoutMS: 10000},
		Ops:      OpsConfig{Listen: "127.0.0.1:7300"},
		TPM:      TPMConfig{Root: "/", EverySeconds: 60},
		Store:    StoreConfig{CacheMiB: 512, ReserveMiB: 256},
		Objects:  ObjectsConfig{PendingMiB: 1024, PendingMinutes: 60},
		Evidence: EvidenceConfig{BundleMiB: maxBundleMiB, MachineMiB: 64, PendingMiB: 512, NodeMiB: 192, ConnectionsMiB: 512, TurnMS: 8000},
		Archive:  ArchiveConfig{QuotaMiB: 8192},
		Log:      conf.Log{Level: "info", Format: "text"},
	}
}

// ReadConfig reads and checks the file. A relative dir is one beside the file.
func ReadConfig(path string) (Config, error) {
	raw, err := conf.ReadFile(path, conf.MaxSize)
	if err != nil {
		return Config{}, err
	}
	c, err := ParseConfig(raw)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	if !filepath.IsAbs(c.Dir) {
		c.Dir = filepath.Join(filepath.Dir(path), c.Dir)
	}
	return c, nil
}

// ParseConfig decodes strictly: a key that no field has, a value of another type
// and a value out of range are errors that name their line or field.
func ParseConfig(raw []byte) (Config, error) {
	c := DefaultConfig()
	if err := conf.Decode(raw, &c, "keystead node run --example-config"); err != nil {
		return Config{}, err
	}
	return c, c.check()
}

// check reports the first value that is out of range.
func (c *Config) check() error {
	for _, a := range []struct{ field, address string }{{"peer.listen", c.Peer.Listen}, {"api.listen", c.API.Listen}, {"ops.listen", c.Ops.Listen}} {
		if _, _, err := net.SplitHostPort(a.address); err != nil {
			return conf.Bad("%s: %v", a.field, err)
		}
	}
	switch {
	case c.Dir == "":
		return conf.Bad("dir must be set")
	case c.Domain.IsZero():
		return conf.Bad("domain must be set: the digest that keystead domain init printed")
	case c.API.Plain && !conf.Loopback(c.API.Listen):
		return conf.Bad("api.plain is for a loopback address, and api.listen is %s", c.API.Listen)
	case c.API.Plain && len(c.API.Clients) > 0:
		return conf.Bad("api.clients needs TLS, which api.plain turns off")
	case c.API.Plain && len(c.API.Writers) > 0:
		return conf.Bad("api.writers needs TLS, which api.plain turns off")
	case c.API.OpenWrites && len(c.API.Writers) > 0:
		return conf.Bad("api.writers means nothing where api.open-writes lets anybody write")
	case c.API.MaxConnections < 1 || c.API.MaxConnections > 1<<20:
		return conf.Bad("api.max-connections must be 1 to %d, and is %d", 1<<20, c.API.MaxConnections)
	case c.API.MaxStrangers < 1 || c.API.MaxStrangers > 1<<20:
		return conf.Bad("api.max-strangers must be 1 to %d, and is %d", 1<<20, c.API.MaxStrangers)
	case c.API.PerAddress < 1 || c.API.PerAddress > 1<<20:
		return conf.Bad("api.max-connections-per-address must be 1 to %d, and is %d", 1<<20, c.API.PerAddress)
	case c.API.MaxRate < 0 || c.API.MaxRate > 1<<30:
		return conf.Bad("api.max-rate must be 0 to %d, and is %d", 1<<30, c.API.MaxRate)
	case c.API.MaxInFlight < 1 || c.API.MaxInFlight > 1<<20:
		return conf.Bad("api.max-in-flight must be 1 to %d, and is %d", 1<<20, c.API.MaxInFlight)
	case c.API.TimeoutMS < 100 || c.API.TimeoutMS > 600_000:
		return conf.Bad("api.timeout-ms must be 100 to 600000, and is %d", c.API.TimeoutMS)
	case c.TPM.EverySeconds < 1 || c.TPM.EverySeconds > 3600:
		return conf.Bad("tpm.every-s must be 1 to 3600, and is %d", c.TPM.EverySeconds)
	case c.Store.CacheMiB < 128 || c.Store.CacheMiB > 1<<20:
		return conf.Bad("store.cache-mib must be 128 to %d, and is %d", 1<<20, c.Store.CacheMiB)
	case c.Store.ReserveMiB < 0 || c.Store.ReserveMiB > 1<<20:
		return conf.Bad("store.reserve-mib must be 0 (none) to %d, and is %d", 1<<20, c.Store.ReserveMiB)
	case c.Objects.PendingMiB < 64 || c.Objects.PendingMiB > 1<<20:
		return conf.Bad("objects.pending-mib must be 64 to %d, and is %d", 1<<20, c.Objects.PendingMiB)
	case c.Archive.QuotaMiB < 64 || c.Archive.QuotaMiB > 1<<24:
		return conf.Bad("archive.quota-mib must be 64 to %d, and is %d", 1<<24, c.Archive.QuotaMiB)
	case c.Objects.PendingMinutes < 1 || c.Objects.PendingMinutes > 10_000:
		return conf.Bad("objects.pending-minutes must be 1 to 10000, and is %d", c.Objects.PendingMinutes)
	}
	return errors.Join(c.Evidence.check(), c.Systems.check(), c.Log.Check())
}
