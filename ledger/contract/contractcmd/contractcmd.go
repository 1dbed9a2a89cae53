// Package contractcmd is contracts' presence on the command line: keystead contract, keystead
// user.
package contractcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	contractv1 "github.com/keystead/keystead/api/contract/v1"
	"github.com/keystead/keystead/api/contract/v1/contractv1connect"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/contract"
)

// Commands are those of contracts and their callers.
func Commands(a *cli.App) []cli.Placed {
	return []cli.Placed{
		{Command: a.Noun("contract", "Programs of members, which the ledger's nodes execute once",
			`A contract is a WebAssembly program (docs/spec/contract.md) that members sign. A call is executed
once, on one node, which signs what it came to; the other nodes check whose it is, and that it
follows the call before. docs/guide/contracts.md goes from a program to a receipt.`,
			`  keystead contract check auction.wasm
  keystead contract deploy auction auction.wasm --policy rules.txt --member ada.key --domain d.json
  keystead contract call auction bid --input @bid.json --as alice.key --domain d.json`,
			check(a), deploy(a), call(a), query(a), list(a))},
		{Command: a.Noun("user", "Whom members let call contracts",
			`A user is a name with a key (keystead member create makes one) and roles, by which the policies of
contracts say who may call what.`,
			`  keystead user add alice --key alice.pub --role bidder --member ada.key --domain d.json
  keystead user list --domain d.json`,
			userAdd(a), userRevoke(a), userList(a))},
	}
}

// boundsFlags are what a contract may take.
type boundsFlags struct {
	gas   int64
	pages uint32
}

func (f *boundsFlags) add(c *cobra.Command) {
	c.Flags().Int64Var(&f.gas, "gas", 100_000_000, "gas of a call, at most")
	c.Flags().Uint32Var(&f.pages, "pages", 256, "pages of memory, of 64 KiB, at most")
}

func (f *boundsFlags) bounds() contract.Bounds { return contract.Bounds{Gas: f.gas, Pages: f.pages} }

// load reads a module and has it run as a node would.
func load(file string, b contract.Bounds) (module []byte, methods []string, err error) {
	if module, err = cli.ReadFile(file, admit.MaxContract); err != nil {
		return nil, nil, err
	}
	ctx := context.Background()
	e, err := contract.NewEngine(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, e.Close(ctx)) }()
	c, err := e.Load(ctx, module, b)
	if err != nil {
		return nil, nil, err
	}
	return module, c.Methods(), nil
}

func check(a *cli.App) *cobra.Command {
	var b boundsFlags
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Tell whether nodes would run a program, and its methods",
		Long: `Reads a WebAssembly module, compiles it as a node does, and lets it start: within the bounds that
it is to have. No node is asked.`,
		Example: `  keystead contract check auction.wasm`,
		Args:    cli.Arguments("FILE"),
	}
	b.add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		module, methods, err := load(args[0], b.bounds())
		if err != nil {
			return err
		}
		d := keystead.Sum(module)
		return a.Answer(map[string]any{"code": d, "methods": methods}, func(w io.Writer) {
			fmt.Fprintf(w, "%s\nmethods: %s\n", d, strings.Join(methods, " "))
		})
	}
	return c
}

func deploy(a *cli.App) *cobra.Command {
	var f cli.StatementFlags
	var b boundsFlags
	var policyFile string
	var replace bool
	c := &cobra.Command{
		Use:   "deploy NAME FILE --policy FILE --domain FILE [--member FILE]...",
		Short: "Take a contract into the domain",
		Long: `Hands the program in as an object that the nodes endorse, and then what members say of it: its
bounds, and a policy over method and caller.kind, caller.name and caller.roles, which decides who
may call what. A contract of that name that there is goes on with its state; --replace says that
it is meant.` + cli.StatementHelp,
		Example: `  keystead contract deploy auction auction.wasm --policy rules.txt --member ada.key --domain d.json`,
		Args:    cli.Arguments("NAME", "FILE"),
	}
	f.Add(c)
	b.add(c)
	c.Flags().StringVar(&policyFile, "policy", "", "`FILE` with the policy")
	c.Flags().BoolVar(&replace, "replace", false, cli.ReplaceHelp)
	cli.Must(c.MarkFlagRequired("policy"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		name := args[0]
		module, _, err := load(args[1], b.bounds())
		if err != nil {
			return err
		}
		rules, err := cli.ReadFile(policyFile, 64<<10)
		if err != nil {
			return err
		}
		text := func(domain keystead.Digest, base uint64) ([]byte, error) {
			s := contract.Spec{Domain: domain, Name: name, Base: base, Code: keystead.Sum(module), Bounds: b.bounds(), Policy: rules}
			return s.Text()
		}
		if _, err := text(keystead.Digest{}, 0); err != nil {
			return cli.Misuse(err, "docs/spec/contract.md has the rules")
		}
		if err := endorse(&f, module); err != nil {
			return err
		}
		return a.DecideOver(&f, contract.Type, name, contract.Type+"/"+name, text, func(old, text string) error { return a.Overwrite("contract "+name, old, text, replace) })
	}
	return c
}

// endorse hands a module in as an object, unless the nodes have endorsed it.
func endorse(f *cli.StatementFlags, module []byte) error {
	cl, ctx, done, err := f.Open()
	if err != nil {
		return err
	}
	defer done()
	d := keystead.Sum(module)
	state, err := cl.State(ctx, nil, []string{admit.TypeObject + "/" + d.String()})
	if err != nil || state.GetVersions()[0] != 0 {
		return err
	}
	if len(f.Members) == 0 {
		return cli.Misuse(errors.New("the program is no endorsed object yet"), "members endorse it first: keystead domain object put --kind contract")
	}
	if _, err := cl.PutObject(ctx, module); err != nil {
		return err
	}
	in := cli.StatementFlags{ClientFlags: f.ClientFlags, Members: f.Members}
	_, err = in.Decide(ctx, cl, admit.TypeObject, d.String(), func(domain keystead.Digest, base uint64) ([]byte, error) {
		return (&admit.Object{Domain: domain, Digest: d, Base: base, Kind: admit.ObjectContract}).Text()
	})
	return err
}

// askFlags are those of calls and queries.
type askFlags struct {
	cli.ClientFlags
	input, as string
}

func (f *askFlags) add(c *cobra.Command) {
	f.ClientFlags.Add(c)
	c.Flags().StringVar(&f.input, "input", "", "the input: `TEXT`, or @FILE")
	c.Flags().StringVar(&f.as, "as", "", "`FILE` with the private key of the user or member who calls; without it anyone calls")
}

// question makes the call and signs it.
func (f *askFlags) question(ctx context.Context, cl *client.Client, name, method string) (*contractv1.CallRequest, error) {
	input := []byte(f.input)
	if file, is := strings.CutPrefix(f.input, "@"); is {
		var err error
		if input, err = cli.ReadFile(file, contract.MaxInput); err != nil {
			return nil, err
		}
	}
	s, err := cl.Status(ctx)
	if err != nil {
		return nil, err
	}
	q := contract.Question{Domain: cl.Domain(), Request: [16]byte(client.NewRequestID()), Deadline: s.GetDomainClockMs() + ledger.Window/2, Contract: name, Method: method, Input: input}
	r := &contractv1.CallRequest{RequestId: q.Request[:], DeadlineMs: q.Deadline, Contract: name, Method: method, Input: input}
	if f.as == "" {
		return r, nil
	}
	m, err := cli.ReadMember(f.as)
	if err == nil {
		r.Signature, err = q.Sign(m)
	}
	return r, err
}

func call(a *cli.App) *cobra.Command {
	var f askFlags
	c := &cobra.Command{
		Use:   "call CONTRACT METHOD [--input TEXT] [--as FILE] --domain FILE",
		Short: "Call a contract",
		Long: `Has a node execute a call once, and answers when it is on the ledger of a majority: with what the
method gives, the call's leaf for its receipt (keystead receipt get), and the gas that it took. A
call that a node did not answer is handed in again under the same request, and happens once.`,
		Example: `  keystead contract call auction bid --input @bid.json --as alice.key --domain d.json
  keystead contract call auction open --input @lot.json --as seller.key --domain d.json`,
		Args: cli.Arguments("CONTRACT", "METHOD"),
	}
	f.add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		r, err := f.question(ctx, cl, args[0], args[1])
		if err != nil {
			return err
		}
		var out contractv1.CallResponse
		if err := cl.Call(ctx, contractv1connect.ContractServiceCallProcedure, r, &out); err != nil {
			return err
		}
		answer := append(cli.Content(out.GetOutput()), cli.Members{{Name: "leaf", Value: out.GetLeaf()}, {Name: "gas", Value: out.GetGas()}, {Name: "executor", Value: out.GetExecutor()}}...)
		return a.Answer(answer, func(w io.Writer) {
			fmt.Fprintf(w, "%s\n", out.GetOutput())
			fmt.Fprintf(w, "leaf %d, executed by %s, %d gas\n", out.GetLeaf(), out.GetExecutor(), out.GetGas())
		})
	}
	return c
}

func query(a *cli.App) *cobra.Command {
	var f askFlags
	c := &cobra.Command{
		Use:   "query CONTRACT METHOD [--input TEXT] [--as FILE] --domain FILE",
		Short: "Ask a contract, without an effect",
		Long: `Has one node execute a call on the newest state. Nothing is written and nothing is proven: it is the
node's word.`,
		Example: `  keystead contract query auction lots --domain d.json`,
		Args:    cli.Arguments("CONTRACT", "METHOD"),
	}
	f.add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		r, err := f.question(ctx, cl, args[0], args[1])
		if err != nil {
			return err
		}
		var out contractv1.QueryResponse
		if err := cl.Call(ctx, contractv1connect.ContractServiceQueryProcedure, &contractv1.QueryRequest{Call: r}, &out); err != nil {
			return err
		}
		answer := append(cli.Content(out.GetOutput()), cli.Members{{Name: "gas", Value: out.GetGas()}, {Name: "log", Value: append([]string{}, out.GetLog()...)}}...)
		return a.Answer(answer, func(w io.Writer) {
			fmt.Fprintf(w, "%s\n", out.GetOutput())
			for _, line := range out.GetLog() {
				fmt.Fprintf(w, "log: %s\n", line)
			}
		})
	}
	return c
}

func list(a *cli.App) *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:     "list [PREFIX] --domain FILE",
		Short:   "List contracts",
		Long:    `Lists the contracts that members took in, with the version of each and the leaf of its last call.`,
		Example: `  keystead contract list --domain d.json`,
		Args:    cobra.MaximumNArgs(1),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		var out contractv1.ListContractsResponse
		if err := cl.Call(ctx, contractv1connect.ContractServiceListContractsProcedure, &contractv1.ListContractsRequest{Prefix: strings.Join(args, "")}, &out); err != nil {
			return err
		}
		return a.AnswerMessage(&out, func(w io.Writer) {
			for _, x := range out.GetContracts() {
				last := "not called yet"
				if n := x.GetLastLeaf(); n > 0 {
					last = fmt.Sprintf("last call at leaf %d", n-1)
				}
				fmt.Fprintf(w, "%s: version %d, %s\n", x.GetName(), x.GetVersion(), last)
			}
		})
	}
	return c
}

func userAdd(a *cli.App) *cobra.Command {
	var f cli.StatementFlags
	var file string
	var roles []string
	var replace bool
	c := &cobra.Command{
		Use:   "add NAME --key FILE [--role ROLE]... --domain FILE [--member FILE]...",
		Short: "Let somebody call contracts",
		Long: `Takes a user in: a public key, whose name is the user's, and roles. A name that is taken is refused
without --replace.` + cli.StatementHelp,
		Example: `  keystead user add alice --key alice.pub --role bidder --member ada.key --domain d.json`,
		Args:    cli.Arguments("NAME"),
	}
	f.Add(c)
	c.Flags().StringVar(&file, "key", "", "`FILE` with the user's public key")
	c.Flags().StringArrayVar(&roles, "role", nil, "a `ROLE`; may be repeated")
	c.Flags().BoolVar(&replace, "replace", false, cli.ReplaceHelp)
	cli.Must(c.MarkFlagRequired("key"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		raw, err := cli.ReadFile(file, 4<<10)
		if err != nil {
			return err
		}
		public, err := key.ParseMemberPublic(raw)
		if err != nil {
			return cli.Misuse(fmt.Errorf("%s: %w", file, err), "")
		}
		slices.Sort(roles)
		return a.DecideOver(&f, contract.UserType, args[0], contract.UserType+"/"+args[0], func(domain keystead.Digest, base uint64) ([]byte, error) {
			u := contract.User{Domain: domain, Name: args[0], Base: base, Key: public, Roles: slices.Compact(roles)}
			return u.Text()
		}, func(old, text string) error { return a.Overwrite("user "+args[0], old, text, replace) })
	}
	return c
}

func userRevoke(a *cli.App) *cobra.Command {
	var f cli.StatementFlags
	c := &cobra.Command{
		Use:     "revoke NAME --domain FILE [--member FILE]... [--out FILE]",
		Short:   "Let a user call no more",
		Long:    `Takes a user off the ledger: calls with its key are refused from then on.` + cli.StatementHelp,
		Example: `  keystead user revoke alice --member ada.key --domain d.json`,
		Args:    cli.Arguments("NAME"),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		state, err := cl.State(ctx, []string{contract.UserType + "/" + args[0]}, nil)
		if err != nil {
			return err
		}
		text := state.GetValues()[0].GetValue()
		if len(text) == 0 {
			return cli.NotFound(fmt.Errorf("no user is named %q", args[0]), "keystead user list lists them")
		}
		u, err := contract.ParseUser(text)
		if err != nil {
			return err
		}
		return a.Decide(&f, contract.UserType, args[0], func(domain keystead.Digest, base uint64) ([]byte, error) {
			u.Domain, u.Base, u.Revoked = domain, base, true
			return u.Text()
		})
	}
	return c
}

func userList(a *cli.App) *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:     "list [PREFIX] --domain FILE",
		Short:   "List users",
		Long:    `Lists the users whom members took in, with their keys and roles.`,
		Example: `  keystead user list --domain d.json`,
		Args:    cobra.MaximumNArgs(1),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		var out contractv1.ListUsersResponse
		if err := cl.Call(ctx, contractv1connect.ContractServiceListUsersProcedure, &contractv1.ListUsersRequest{Prefix: strings.Join(args, "")}, &out); err != nil {
			return err
		}
		return a.AnswerMessage(&out, func(w io.Writer) {
			for _, u := range out.GetUsers() {
				fmt.Fprintf(w, "%s: %s, roles %v\n", u.GetName(), u.GetKey(), u.GetRoles())
			}
		})
	}
	return c
}
