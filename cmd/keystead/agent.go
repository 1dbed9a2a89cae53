package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/internal/cli"
)

// agent: a host's side of a domain.
func (a *app) agent() *cobra.Command {
	return a.Noun("agent", "A host's side of a domain: evidence, lease, keys for its applications",
		`An agent runs on a host. It shows evidence to the domain's nodes on a timer, holds the
lease that they give, keeps an X.509-SVID in files, and gives applications of the machine
the keys that their release policies allow. docs/guide/host.md goes through it.`,
		`  keystead agent init /etc/keystead-agent --host web-1 --domain domain.json
  keystead agent run --config /etc/keystead-agent/agent.toml
  keystead agent status`,
		a.agentInit(), a.agentRun(), a.agentStatus(), a.agentWatch(), a.agentEnrolment(),
	)
}

// enrolment is what a member needs to enrol a host.
type enrolment struct {
	Host    string          `json:"host"`
	EK      keystead.Digest `json:"ek"` // hardware identity
	Command string          `json:"command"`
}

// newGuest is newEnrolment of a machine whose TEE speaks alone; its key is in the directory.
func newGuest(ctx context.Context, host, dir, root string) (enrolment, error) {
	h, err := agent.TEEHost(ctx, dir, collect.Machine{Root: root})
	if err != nil {
		return enrolment{}, aboutMachine(err)
	}
	return enrolment{host, h.Identity(), agent.TEEEnrolmentCommand(host, h)}, nil
}

func newEnrolment(ctx context.Context, host string, path string) (enrolment, error) {
	tpm, err := collect.OpenTPM(path)
	if err != nil {
		return enrolment{}, aboutMachine(err)
	}
	defer tpm.Close()
	ek, err := agent.Identity(ctx, tpm)
	return enrolment{host, ek, agent.EnrolmentCommand(host, ek)}, aboutMachine(err)
}

func (e *enrolment) print(w io.Writer) {
	fmt.Fprintf(w, "host:      %s\nidentity:  %s\na member:  %s\n", e.Host, e.EK, e.Command)
}

func (a *app) agentInit() *cobra.Command {
	var f cli.ClientFlags
	var p agent.Place
	c := &cobra.Command{
		Use:   "init DIR --host NAME --domain FILE",
		Short: "Make an agent's directory: key, domain file, configuration",
		Long: `Makes a directory with the host's TLS key, the domain file and a configuration whose
comments are the manual, and prints the hardware identity of the machine's TPM (with --tee,
that of its TEE) with the command by which a member enrols it. Check the domain's digest
against one that you were told: with a wrong one the host joins another domain.`,
		Example: `  keystead agent init /etc/keystead-agent --host web-1 --domain domain.json --digest sha256:...`,
		Args:    cli.Arguments("DIR"),
	}
	c.Flags().StringVar(&f.Domain, "domain", os.Getenv("KEYSTEAD_DOMAIN"), "the domain's `FILE` (default $KEYSTEAD_DOMAIN)")
	c.Flags().Lookup("domain").DefValue = "" // help is the same everywhere
	c.Flags().StringVar(&f.Digest, "digest", "", "the domain's `DIGEST`, if the file is not to be trusted for it")
	c.Flags().StringVar(&p.Host, "host", "", "the host's `NAME` in the domain: a-z, 0-9, dot, dash")
	c.Flags().StringVar(&p.TPM.Path, "tpm", "", "`PATH` of the TPM: a device, or the socket of a software TPM (default: the machine's own)")
	c.Flags().BoolVar(&p.TEE, "tee", false, "evidence is of the machine's TEE alone: SEV-SNP, TDX or Nitro")
	c.MarkFlagsMutuallyExclusive("tee", "tpm")
	c.Flags().StringVar(&p.TPM.Root, "root", "", "`DIR` below which logs and package list are read (default /)")
	c.Flags().StringVar(&p.Socket, "socket", "", "`PATH` of the socket for applications (default /run/keystead/agent.sock)")
	c.Flags().StringVar(&p.SVID.Dir, "svid", "", "`DIR` for the SVID's files (default /run/keystead/svid)")
	cli.Must(c.MarkFlagRequired("host"))
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if p.Domain, p.Digest, err = f.File(); err != nil {
			return err
		}
		for _, path := range []*string{&p.TPM.Path, &p.TPM.Root, &p.Socket, &p.SVID.Dir} {
			if *path == "" {
				continue
			}
			if *path, err = filepath.Abs(*path); err != nil { // in the file, relative paths are beside it
				return cli.Misuse(err, "")
			}
		}
		var e enrolment
		root := cmp.Or(p.TPM.Root, "/")
		if p.TEE { // whose host's key is made only now: first that it answers
			_, err = collect.NewTEEProver(collect.Machine{Root: root}, "").Introduce(c.Context())
			err = aboutMachine(err)
		} else {
			e, err = newEnrolment(c.Context(), p.Host, p.TPM.Path)
		}
		if err != nil {
			return err
		}
		if err := agent.Prepare(args[0], p); errors.As(err, new(*keystead.DenyError)) {
			return err
		} else if err != nil {
			return cli.Misuse(err, "")
		}
		if p.TEE {
			if e, err = newGuest(c.Context(), p.Host, args[0], root); err != nil {
				return err
			}
		}
		answer := struct {
			Directory string          `json:"directory"`
			Domain    keystead.Digest `json:"domain"`
			enrolment
		}{args[0], p.Digest, e}
		return a.Answer(answer, func(w io.Writer) {
			fmt.Fprintf(w, "domain:    %s\n", p.Digest)
			e.print(w)
			fmt.Fprintf(w, "run:       keystead agent run --config %s\n", filepath.Join(args[0], agent.ConfigFile))
		})
	}
	return c
}

func (a *app) agentRun() *cobra.Command {
	var config string
	var example bool
	c := &cobra.Command{
		Use:   "run --config FILE",
		Short: "Run an agent until SIGTERM or SIGINT",
		Long: `Runs an agent. It logs to standard error, waits for its enrolment and for nodes that it can
not reach, and goes on by itself. At its end it removes the SVID and forgets all keys.
--example-config prints a configuration whose comments are the manual.`,
		Example: `  keystead agent run --config /etc/keystead-agent/agent.toml
  keystead agent run --example-config > agent.toml`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&config, "config", "", "configuration `FILE`")
	c.Flags().BoolVar(&example, "example-config", false, "print a configuration with every field explained")
	c.RunE = func(*cobra.Command, []string) error {
		if example {
			return a.Answer(map[string]string{"config": agent.ExampleConfig}, func(w io.Writer) { io.WriteString(w, agent.ExampleConfig) })
		}
		cfg, err := readAgentConfig(config)
		if err != nil {
			return err
		}
		return runAgent(cfg)
	}
	return c
}

func readAgentConfig(path string) (agent.Config, error) {
	if path == "" {
		return agent.Config{}, cli.Misuse(fmt.Errorf("--config is required"), "keystead agent init makes one")
	}
	cfg, err := agent.ReadConfig(path)
	if err != nil {
		return cfg, cli.Misuse(err, "keystead agent run --example-config explains every field")
	}
	return cfg, nil
}

// runAgent runs an agent until a signal.
func runAgent(cfg agent.Config) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	log := cfg.Log.Logger(os.Stderr)
	b, err := thisBuild()
	if err != nil {
		return err
	}
	g, err := agent.Start(ctx, cfg, b.String(), log)
	if err != nil {
		return mayPass(aboutMachine(err))
	}
	log.Info("agent runs", "host", cfg.Host, "domain", cfg.Domain, "socket", cfg.Socket.Path)
	notify("READY=1")
	<-ctx.Done()
	log.Info("agent closes")
	notify("STOPPING=1")
	return g.Close()
}

func (a *app) agentEnrolment() *cobra.Command {
	var config string
	c := &cobra.Command{
		Use:   "enrolment --config FILE",
		Short: "Show what a member needs to enrol this host",
		Long: `Prints the hardware identity of the machine's TPM, or of its TEE with this host's key, and the
command by which a member enrols it.`,
		Example: `  keystead agent enrolment --config /etc/keystead-agent/agent.toml`,
		Args:    cobra.NoArgs,
	}
	c.Flags().StringVar(&config, "config", "", "configuration `FILE`")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := readAgentConfig(config)
		if err != nil {
			return err
		}
		var e enrolment
		if cfg.TEE.Alone {
			e, err = newGuest(c.Context(), cfg.Host, cfg.Dir, cfg.TPM.Root)
		} else {
			e, err = newEnrolment(c.Context(), cfg.Host, cfg.TPM.Path)
		}
		if err != nil {
			return err
		}
		return a.Answer(e, e.print)
	}
	return c
}
