package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/conf"
	"github.com/keystead/keystead/node"
)

// node: the machines that keep a domain's ledger.
func (a *app) node() *cobra.Command {
	return a.Noun("node", "Nodes, which keep a domain's ledger",
		`A node is a machine that replicates the ledger of a domain and signs its checkpoints.`,
		`  keystead node init n4 --name n4 --peer 10.0.0.4:7100 --api 10.0.0.4:7200
  keystead node add n4/contact --domain demo/domain.json --key demo/member.key
  keystead node run --config n4/keystead.toml
  keystead node remove n4 --domain demo/domain.json --key demo/member.key`,
		a.nodeInit(), a.nodeRun(), a.nodeStatus(), a.nodeAdd(), a.nodeRemove(), a.nodeRekey(), a.nodeRecover(),
	)
}

func (a *app) nodeInit() *cobra.Command {
	var p node.Place
	var writers []string
	c := &cobra.Command{
		Use:   "init DIR --name NAME --peer HOST:PORT --api HOST:PORT",
		Short: "Make a node's directory: keys, contact, configuration",
		Long: `Makes a directory with the node's keys, its contact (its public keys and addresses,
signed), and a configuration. The node runs once it has been told a domain
(keystead domain join). With --tpm the contact names the TPM's attestation key, which
members pin by signing for the node, and which certifies the node's later keys; and the
node's first signing key is sealed to the TPM and the boot registers.`,
		Example: `  keystead node init n1 --name n1 --peer 127.0.0.1:7101 --api 127.0.0.1:7201 --ops 127.0.0.1:7301
  keystead node init n1 --name n1 --peer 10.0.0.1:7100 --api 10.0.0.1:7200 --tpm /dev/tpmrm0`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&p.Name, "name", "", "the node's name in the domain: a-z, 0-9, dot, dash")
	c.Flags().StringVar(&p.Peer, "peer", "", "`HOST:PORT` where other nodes reach it")
	c.Flags().StringVar(&p.API, "api", "", "`HOST:PORT` where clients reach it")
	c.Flags().StringVar(&p.Ops, "ops", "127.0.0.1:7300", "`HOST:PORT` for health checks and metrics")
	c.Flags().BoolVar(&p.Plain, "plain", false, "serve clients without TLS, on a loopback address only")
	c.Flags().StringArrayVar(&writers, "writer", nil, "`DIGEST` of the key of a client that may write under kv/ (keystead ledger key); may be repeated")
	c.Flags().BoolVar(&p.OpenWrites, "open-writes", false, "let anybody who reaches the node write under kv/")
	c.MarkFlagsMutuallyExclusive("writer", "open-writes")
	c.Flags().StringVar(&p.TPM, "tpm", "", "`PATH` of the node's TPM: a device, or the socket of a software TPM")
	c.Flags().StringVar(&p.Root, "root", "", "`DIR` below which the node's logs and package list are read (default /)")
	c.Flags().StringVar(&p.Note, "note", "", "what the node's evidence says of itself, for people")
	for _, f := range []string{"name", "peer", "api"} {
		cli.Must(c.MarkFlagRequired(f))
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		for _, w := range writers {
			d, err := keystead.ParseDigest(w)
			if err != nil {
				return cli.Misuse(fmt.Errorf("--writer: %w", err), "keystead ledger key prints it")
			}
			p.Writers = append(p.Writers, d)
		}
		contact, err := prepare(args[0], p)
		if err != nil {
			return err
		}
		answer := struct {
			Directory string `json:"directory"`
			Contact   string `json:"contact"`
		}{args[0], string(contact)}
		return a.Answer(answer, func(w io.Writer) { fmt.Fprintf(w, "%s", contact) })
	}
	return c
}

// prepare makes a node's directory.
func prepare(dir string, p node.Place) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	contact, err := node.Prepare(ctx, dir, p)
	return contact, aboutPlace(err)
}

// aboutPlace gives trouble with the TPM its own hint; what else is wrong with a place
// is misuse.
func aboutPlace(err error) error {
	if e := (*collect.Error)(nil); err == nil || errors.As(err, &e) {
		return aboutMachine(err)
	}
	return cli.Misuse(err, "")
}

func (a *app) nodeRun() *cobra.Command {
	var config string
	var example bool
	c := &cobra.Command{
		Use:   "run --config FILE",
		Short: "Run a node until SIGTERM or SIGINT",
		Long: `Runs a node. It logs to standard error. On SIGTERM or SIGINT it hands over leadership,
ends what is under way, and leaves the record of a clean shutdown, with which it may
come back as it was. --example-config prints a configuration whose comments are the
manual.`,
		Example: `  keystead node run --config /etc/keystead/keystead.toml
  keystead node run --example-config > keystead.toml`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&config, "config", "", "configuration `FILE`")
	c.Flags().BoolVar(&example, "example-config", false, "print a configuration with every field explained")
	c.RunE = func(*cobra.Command, []string) error {
		if example {
			return a.Answer(map[string]string{"config": node.ExampleConfig}, func(w io.Writer) { io.WriteString(w, node.ExampleConfig) })
		}
		if config == "" {
			return cli.Misuse(fmt.Errorf("--config is required"), "keystead node run --example-config prints one")
		}
		cfg, err := node.ReadConfig(config)
		if err != nil {
			return cli.Misuse(err, "keystead node run --example-config explains every field")
		}
		return runNode(cfg)
	}
	return c
}

// runNode runs a node until a signal or its own end.
func runNode(cfg node.Config) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	log := cfg.Log.Logger(os.Stderr)
	b, err := thisBuild()
	if err != nil {
		return err
	}
	n, err := node.Start(ctx, cfg, node.Options{Log: log, Version: b.String()})
	if err != nil {
		return aboutStart(err)
	}
	log.Info("node runs", "name", n.Name(), "build", b, "domain", cfg.Domain, "api", cfg.API.Listen, "peers", cfg.Peer.Listen)
	notify("READY=1")
	select {
	case <-ctx.Done():
		log.Info("node closes")
		notify("STOPPING=1")
		return n.Close()
	case <-n.Done():
		err := n.Err()
		if cerr := n.Close(); err == nil {
			err = cerr
		}
		if removed := (*node.RemovedError)(nil); errors.As(err, &removed) {
			err = cli.Hinted(err, removedHint)
		}
		return mayPass(err)
	}
}

// removedHint is for a node that members removed.
const removedHint = "members removed this node: its disk and keys count no more. To have the machine back, make a node anew in an empty directory (keystead node init) and have members add it (keystead node add)"

// aboutStart gives what keeps a node from starting a hint.
func aboutStart(err error) error {
	var config *conf.Error
	var removed *node.RemovedError
	switch {
	case errors.As(err, &config):
		return cli.Misuse(err, "keystead node run --example-config explains every field")
	case errors.Is(err, keystead.ReasonSealedStateChanged):
		return cli.Hinted(err, "the machine booted otherwise than when the key was sealed; boot as before, or make the node anew (keystead node init) and have members replace it")
	case errors.Is(err, keystead.ReasonSealedElsewhere), errors.Is(err, keystead.ReasonKeyForeign):
		return cli.Hinted(err, "a node's directory belongs to the TPM that it was made with; make a node anew with keystead node init")
	case errors.As(err, &removed):
		return cli.Hinted(err, removedHint)
	case errors.Is(err, keystead.ReasonClosedRecovery):
		return cli.Hinted(err, "keep every node's directory; docs/guide/closed/recovery.md has the way back")
	case errors.Is(err, keystead.ReasonClosedNoMajority):
		return cli.Hinted(err, "keep every node's directory, and start this node and the others again")
	case errors.Is(err, keystead.ReasonSealedDamaged):
		return cli.Hinted(err, "the sealed key is lost; make the node anew (keystead node init) and have members replace it")
	}
	return mayPass(aboutMachine(err))
}

// mayPass marks trouble with the machine that may pass by itself, and for which a service
// is started again: a port or an address that is not to be had yet, a full disk.
func mayPass(err error) error {
	for _, x := range []struct {
		errno syscall.Errno
		hint  string
	}{
		{syscall.EADDRINUSE, "another process listens there: ss -lntp names it"},
		{syscall.EADDRNOTAVAIL, "this machine does not have the address, or not yet"},
		{syscall.ENOSPC, "make room where the node's directory is: what it holds is whole"},
		{syscall.EDQUOT, "make room where the node's directory is: what it holds is whole"},
	} {
		if errors.Is(err, x.errno) {
			return cli.Unavailable(err, x.hint)
		}
	}
	return err
}

func (a *app) nodeStatus() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:     "status --domain FILE",
		Short:   "Show what a node knows of itself and its peers",
		Long:    `Shows what a node knows of itself and of the others: the word of that node.`,
		Example: `  keystead node status --domain demo/domain.json --node n2`,
		Args:    cobra.NoArgs,
	}
	f.Add(c)
	c.RunE = func(*cobra.Command, []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		s, err := cl.Status(ctx)
		if err != nil {
			return err
		}
		return a.AnswerMessage(s, func(w io.Writer) {
			fmt.Fprintf(w, "node:       %s (%s), term %d, led by %s\ntree:       %d leaves, %d under a checkpoint\nclock:      %s, fresh: %v\n",
				s.GetNode(), s.GetRole(), s.GetTerm(), orNobody(s.GetLeader()), s.GetTreeSize(), s.GetCheckpointSize(),
				time.UnixMilli(int64(s.GetDomainClockMs())).UTC().Format(time.RFC3339), s.GetFresh())
			signs := "by the key that the roster names"
			if why := s.GetUnsigned(); why != "" {
				signs = "nothing: " + why
			}
			fmt.Fprintf(w, "signs:      %s\n", signs)
			fmt.Fprintf(w, "disk:       %d MiB free\n", s.GetDiskFreeBytes()>>20)
			if why := s.GetClosed(); why != "" {
				fmt.Fprintf(w, "closed:     %s\n", why)
			}
			for _, proof := range s.GetProvenBad() {
				fmt.Fprintf(w, "proven bad: %s\n", proof)
			}
			for _, p := range s.GetPeers() {
				fmt.Fprintf(w, "member:     %s (%s), raft id %d\n", p.GetName(), p.GetRole(), p.GetRaftId())
			}
		})
	}
	return c
}

func orNobody(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}
