package main

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/node"
)

func (a *app) nodeRecover() *cobra.Command {
	var config string
	c := &cobra.Command{
		Use:   "recover --config FILE [RECOVERY]",
		Short: "Reopen a closed domain from this node's disk, as members signed",
		Long: `For a domain that stays closed because a majority of its nodes restarted together. On a
node that does not run, it prints the text that names the state of its disk. Do that
on every node and choose the one with the highest term and, of those, the highest last
entry: what was acknowledged beyond it is lost. Members sign that text (keystead member sign).

With the file RECOVERY that enough members signed, the node's disk becomes the one that
the ledger goes on from: run the node, and then the others, which rejoin it. A node
that was stopped in order after the others failed must lose its record of that first:
remove the file shutdown in its directory. The text goes onto the ledger.`,
		Example: `  keystead node recover --config n1/keystead.toml > recovery.txt
  keystead member sign --key ops.key recovery.txt
  keystead node recover --config n1/keystead.toml recovery.txt`,
		Args: cobra.MaximumNArgs(1),
	}
	c.Flags().StringVar(&config, "config", "", "configuration `FILE` of the node")
	cli.Must(c.MarkFlagRequired("config"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		cfg, err := node.ReadConfig(config)
		if err != nil {
			return cli.Misuse(err, "keystead node run --example-config explains every field")
		}
		if len(args) == 0 {
			r, err := node.PlanRecovery(cfg)
			if err != nil {
				return stopFirst(err)
			}
			return a.Answer(recoveryAnswer(r), func(w io.Writer) { w.Write(r.Text()) })
		}
		signed, err := cli.ReadFile(args[0], 64<<10)
		if err != nil {
			return err
		}
		r, err := node.Recover(cfg, signed)
		if err != nil {
			return stopFirst(err)
		}
		return a.Answer(recoveryAnswer(r), func(w io.Writer) {
			fmt.Fprintf(w, "the ledger goes on from %s\nrun: keystead node run --config %s, then the other nodes\n", r, config)
		})
	}
	return c
}

// stopFirst says what to do when another process has the store.
func stopFirst(err error) error {
	if errors.Is(err, syscall.EAGAIN) {
		return cli.Misuse(err, "stop the node first")
	}
	return err
}

func recoveryAnswer(r node.Recovery) any {
	return struct {
		Domain keystead.Digest `json:"domain"`
		Roster uint64          `json:"roster"`
		Node   string          `json:"node"`
		Term   uint64          `json:"term"`
		Last   uint64          `json:"last"`
		Disk   keystead.Digest `json:"disk"`
		Text   string          `json:"text"`
	}{r.Domain, r.Roster, r.Node, r.Term, r.Last, r.Disk, string(r.Text())}
}
