package agent

import (
	_ "embed"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/conf"
)

// ExampleConfig is a configuration with every field, its default, and what it trusts
// whom for: the manual of an agent.
//
//go:embed example.toml
var ExampleConfig string

// Config is an agent's configuration file. ExampleConfig explains each field.
type Config struct {
	Dir      string          `toml:"dir"`
	Domain   keystead.Digest `toml:"domain"`
	Host     string          `toml:"host"`
	TPM      TPMConfig       `toml:"tpm"`
	TEE      TEEConfig       `toml:"tee"`
	Evidence EvidenceConfig  `toml:"evidence"`
	Socket   SocketConfig    `toml:"socket"`
	Ops      OpsConfig       `toml:"ops"`
	Log      conf.Log        `toml:"log"`
	Systems
}

// TPMConfig says where evidence comes from.
type TPMConfig struct {
	Path string `toml:"path"`
	Root string `toml:"root"`
	Note string `toml:"note"`
}

// TEEConfig says whether a trusted execution environment speaks for the machine, alone.
type TEEConfig struct {
	Alone bool `toml:"alone"`
}

// EvidenceConfig says how often evidence is shown.
type EvidenceConfig struct {
	IntervalMS int `toml:"interval-ms"`
}

// SocketConfig is for the applications of the machine.
type SocketConfig struct {
	Path              string `toml:"path"`
	Mode              string `toml:"mode"`
	User              string `toml:"user"`
	Group             string `toml:"group"`
	MaxConnections    int    `toml:"max-connections"`
	MaxPerUser        int    `toml:"max-per-user"`
	ReleasesPerSecond int    `toml:"releases-per-second"`
}

// OpsConfig is for health checks and metrics.
type OpsConfig struct {
	Listen string `toml:"listen"`
}

// DefaultConfig is what an empty file means, save for the fields that it must set.
func DefaultConfig() Config {
	return Config{
		Dir:    "/var/lib/keystead-agent",
		TPM:    TPMConfig{Root: "/"},
		Socket: SocketConfig{Path: "/run/keystead/agent.sock", Mode: "0660", MaxConnections: 256, MaxPerUser: 32, ReleasesPerSecond: 20},
		Log:    conf.Log{Level: "info", Format: "text"},

		Systems: defaultSystems(),
	}
}

// ReadConfig reads and checks the file. Relative paths are beside the file.
func ReadConfig(path string) (Config, error) {
	raw, err := conf.ReadFile(path, conf.MaxSize)
	if err != nil {
		return Config{}, err
	}
	c, err := ParseConfig(raw)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	for _, p := range append(c.paths(), &c.Dir, &c.TPM.Path, &c.TPM.Root, &c.Socket.Path) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	return c, nil
}

// ParseConfig decodes strictly: a key that no field has, a value of another type and
// a value out of range are errors that name their line or field.
func ParseConfig(raw []byte) (Config, error) {
	c := DefaultConfig()
	if err := conf.Decode(raw, &c, "keystead agent run --example-config"); err != nil {
		return Config{}, err
	}
	return c, c.check()
}

// Bounds of the configuration.
const (
	minInterval   = 100 * time.Millisecond
	maxInterval   = 24 * time.Hour
	maxSocketPath = 90 // bytes: sockaddr_un holds 108, and the socket is made under a longer name first
)

// check reports the first value that is out of range.
func (c *Config) check() error {
	interval := time.Duration(c.Evidence.IntervalMS) * time.Millisecond
	switch {
	case c.Dir == "":
		return conf.Bad("dir must be set")
	case c.Domain.IsZero():
		return conf.Bad("domain must be set: the digest that keystead domain init printed")
	case !hostName(c.Host):
		return conf.Bad("host must be set: 1 to 64 of a-z, 0-9, dot and dash, and is %q", c.Host)
	case c.TPM.Root == "":
		return conf.Bad("tpm.root must be set")
	case c.Evidence.IntervalMS != 0 && (interval < minInterval || interval > maxInterval):
		return conf.Bad("evidence.interval-ms must be 0, or %d to %d, and is %d", minInterval.Milliseconds(), maxInterval.Milliseconds(), c.Evidence.IntervalMS)
	case c.Socket.Path == "" || len(c.Socket.Path) > maxSocketPath:
		return conf.Bad("socket.path must be set, of at most %d bytes", maxSocketPath)
	case c.Socket.MaxConnections < 1 || c.Socket.MaxConnections > 1<<16:
		return conf.Bad("socket.max-connections must be 1 to %d, and is %d", 1<<16, c.Socket.MaxConnections)
	case c.Socket.MaxPerUser < 1 || c.Socket.MaxPerUser > c.Socket.MaxConnections:
		return conf.Bad("socket.max-per-user must be 1 to socket.max-connections, and is %d", c.Socket.MaxPerUser)
	case c.Socket.ReleasesPerSecond < 1 || c.Socket.ReleasesPerSecond > 1<<16:
		return conf.Bad("socket.releases-per-second must be 1 to %d, and is %d", 1<<16, c.Socket.ReleasesPerSecond)
	}
	if _, err := c.Socket.mode(); err != nil {
		return conf.Bad("socket.mode: %v", err)
	}
	return c.Log.Check()
}

// mode reads the permissions, in octal.
func (s *SocketConfig) mode() (fs.FileMode, error) {
	n, err := strconv.ParseUint(s.Mode, 8, 32)
	if err != nil || n > 0o777 || n&0o600 != 0o600 {
		return 0, fmt.Errorf("is %q, and not permissions in octal with which the owner reads and writes, such as 0660", s.Mode)
	}
	return fs.FileMode(n), nil
}
