// Command keystead collects and judges evidence of what machines run.
//
// The answer to a command is on stdout and everything else on stderr. The exit status
// says where a refusal falls: 0 ok, 1 misuse, 2 signature, 3 collateral, 4 revoked,
// 5 policy, 6 unavailable, 7 internal, 8 not found; 130 is interrupted.
package main

import (
	"os"

	"github.com/keystead/keystead/app/appcmd"
	"github.com/keystead/keystead/app/launch"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/ledger/contract/contractcmd"
	"github.com/keystead/keystead/watch/watchcmd"
)

func main() {
	launch.Stage() // of keystead run: it does not return there
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// systems are the commands of systems' parts, one function each.
func systems() []func(*cli.App) []cli.Placed {
	return []func(*cli.App) []cli.Placed{watchcmd.Commands, appcmd.Commands, contractcmd.Commands}
}
