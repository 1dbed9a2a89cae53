package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent/part"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/conf"
)

// An Agent runs until Close.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	self    *identity
	ek      keystead.Digest // hardware identity
	boot    process.BootID
	lock    *os.File
	machine collect.Machine  // where logs and TEE are
	tpm     *collect.TPM     // nil where a TEE speaks alone
	prover  attest.Prover    // of the TPM, or of the TEE
	tee     evidence.TEEHost // zero of a host with a TPM
	domain  *client.Client   // for what anybody may ask, such as where nodes are
	nodes   *nodes
	host    *client.Host // on attested connections
	seats   []*seat      // of the parts

	releaser part.Releaser // answers for signed programs; nil where no part does
	front    *front
	ops      *ops

	ctx   context.Context
	stop  context.CancelFunc
	tasks sync.WaitGroup
	wake  chan struct{}

	closing sync.Once
	closed  error

	mu       sync.Mutex // guards what follows
	core     *Core
	held     *held
	seen     map[string]error   // nodes, as they were found
	learned  Moment             // when roster and terms were asked for, unless something failed since; 0 for never
	met      Moment             // when all nodes saw evidence, unless something failed since; 0 for never
	replayed evidence.Reference // what nodes have of this host's logs; zero for nothing
	news     chan struct{}      // closed when the lease or the phase changes; nil while nobody watches
}

// Start opens the TPM and the socket and begins to show evidence. That no node can be
// reached, or the host is not enrolled, is no error: the agent waits. Build names the
// program to operators.
func Start(ctx context.Context, cfg Config, build string, log *slog.Logger) (*Agent, error) {
	return start(ctx, cfg, build, log, collect.Machine{Root: cfg.TPM.Root}, (*Agent).parts)
}

func start(ctx context.Context, cfg Config, build string, log *slog.Logger, machine collect.Machine, parts func(*Agent) []maker) (_ *Agent, err error) {
	a := &Agent{cfg: cfg, log: log, machine: machine, wake: make(chan struct{}, 1), held: newHeld(), seen: map[string]error{}}
	a.ctx, a.stop = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if err := a.openDir(); err != nil {
		return nil, err
	}
	if a.ops, err = newOps(a, cfg.Ops.Listen, build); err != nil {
		return nil, err
	}
	if err := a.assemble(parts(a)); err != nil {
		return nil, err
	}
	if err := a.openMachine(ctx); err != nil {
		return nil, err
	}
	if err := a.openDomain(); err != nil {
		return nil, err
	}
	if a.front, err = openFront(cfg.Socket, a.now, a.log); err != nil {
		return nil, err
	}
	a.core = NewCore(Timing{Interval: time.Duration(cfg.Evidence.IntervalMS) * time.Millisecond}, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	a.front.serve(a.procedures(), func(err error) { a.log.Error("request failed", "because", err) })
	a.ops.serve()
	a.tasks.Go(a.run)
	return a, nil
}

// openDir takes what is this agent's: directory and key.
func (a *Agent) openDir() (err error) {
	if a.lock, err = lock(a.cfg.Dir); err != nil {
		return err
	}
	if a.self, err = loadKey(a.cfg.Dir); errors.Is(err, os.ErrNotExist) {
		if err = makeKey(a.cfg.Dir); err == nil {
			a.self, err = loadKey(a.cfg.Dir)
		}
	}
	return err
}

// openMachine takes what is this machine's: boot id, TPM or TEE.
func (a *Agent) openMachine(ctx context.Context) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	if a.boot, err = process.ParseBootID(string(boot)); err != nil {
		return err
	}
	if a.cfg.TEE.Alone {
		prover := collect.NewTEEProver(a.machine, a.cfg.TPM.Note)
		a.prover = prover
		a.tee, err = teeHost(ctx, prover, a.self)
		a.ek = a.tee.Identity()
		return err
	}
	if a.tpm, err = collect.OpenTPM(a.cfg.TPM.Path); err != nil {
		return err
	}
	a.prover = collect.NewProver(a.tpm, a.machine, collect.AKECC, a.cfg.TPM.Note)
	a.ek, err = Identity(ctx, a.tpm)
	return err
}

// TEEHost returns as what a machine whose TEE speaks alone is enrolled: what its TEE says
// that it is, and the key in the agent's directory.
func TEEHost(ctx context.Context, dir string, machine collect.Machine) (evidence.TEEHost, error) {
	self, err := loadKey(dir)
	if err != nil {
		return evidence.TEEHost{}, err
	}
	return teeHost(ctx, collect.NewTEEProver(machine, ""), self)
}

func teeHost(ctx context.Context, prover attest.Prover, self *identity) (evidence.TEEHost, error) {
	keys, err := prover.Introduce(ctx)
	h := keys.TEE
	h.Key = keystead.Sum(self.public)
	return h, err
}

// Identity returns the hardware identity of a TPM: SHA-256 of its endorsement key's
// public key (PKIX DER).
func Identity(ctx context.Context, tpm *collect.TPM) (keystead.Digest, error) {
	ek, err := tpm.EK(ctx)
	if err != nil {
		return keystead.Digest{}, err
	}
	public, err := tpm2.ParsePublic(ek.Public)
	if err != nil {
		return keystead.Digest{}, err
	}
	return public.Fingerprint(), nil
}

// nodeAge is how long this host goes by what a node showed, and how often it shows
// evidence to every node although all goes well. Nodes watch each other more closely, and
// each renewal takes two of them; what they need to know of this host the ledger has.
const nodeAge = time.Hour

// How old roster and terms may be: while all goes well, for asking for them costs nodes a
// third of what a renewal does; and when a node is to be judged by them.
const (
	learnAge = 5 * time.Minute
	judgeAge = 10 * time.Second
)

// openDomain reads the domain file, and prepares to talk to nodes.
func (a *Agent) openDomain() error {
	path := filepath.Join(a.cfg.Dir, DomainFile)
	raw, err := conf.ReadFile(path, conf.MaxSize)
	if err != nil {
		return err
	}
	file, err := client.ParseDomain(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if a.domain, err = client.Open(file, a.cfg.Domain, client.Options{Certificate: &a.self.cert}); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	a.nodes = newNodes(a.domain, a.prover, a.self)
	a.host = client.NewHost(client.HostOptions{MaxAge: nodeAge, Dial: func(ctx context.Context, to client.Contact) (net.Conn, error) {
		if err := a.learn(ctx, judgeAge); err != nil {
			return nil, err
		}
		return a.nodes.dial(ctx, to, 2*nodeAge) // client.Host takes a new one after nodeAge, and lets requests end on the old
	}})
	return nil
}

// now reads CLOCK_BOOTTIME.
func (a *Agent) now() Moment {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // every kernel that this runs on has it
	}
	return Moment(ts.Nano())
}

// Enrolment is the command by which a member enrols this host.
func (a *Agent) Enrolment() string {
	if a.cfg.TEE.Alone {
		return TEEEnrolmentCommand(a.cfg.Host, a.tee)
	}
	return EnrolmentCommand(a.cfg.Host, a.ek)
}

// TEEEnrolmentCommand is the command by which a member enrols a host with a TEE alone.
func TEEEnrolmentCommand(host string, h evidence.TEEHost) string {
	return fmt.Sprintf("keystead host enrol %s --tee %s --machine %s --key %s --domain domain.json --member member.key", host, h.Kind, h.Machine, h.Key)
}

// EnrolmentCommand is the command by which a member enrols a host of that hardware
// identity.
func EnrolmentCommand(host string, ek keystead.Digest) string {
	return fmt.Sprintf("keystead host enrol %s --ek %s --domain domain.json --member member.key", host, ek)
}

// beat is the longest time between two looks at the clock: a timer stands still while
// the machine sleeps, a lease does not.
const beat = time.Second

// run lets the core act when it is time.
func (a *Agent) run() {
	for a.ctx.Err() == nil {
		a.mu.Lock()
		a.apply((*Core).Step)
		now := a.now()
		a.held.expire(now)
		wait := min(beat, max(0, a.core.Next().Sub(now)))
		a.mu.Unlock()
		a.front.users.forget(now)
		a.front.forget(false)
		select {
		case <-a.ctx.Done():
		case <-a.wake:
		case <-time.After(wait):
		}
	}
}

// do tells the core of something, and has run look at the time anew.
func (a *Agent) do(decide func(*Core, Moment) Ready) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.apply(decide)
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// apply does what the core decides: it closes at once, and does the rest beside. The
// lock is held.
func (a *Agent) apply(decide func(*Core, Moment) Ready) {
	if a.ctx.Err() != nil {
		return
	}
	before, end := a.core.phase, a.core.lease
	r := decide(a.core, a.now())
	if r.Close {
		a.shut(r.Silent, end)
	}
	phase, problem := a.core.Phase()
	if phase != before || r.Close {
		a.tell(phase, problem)
	}
	if phase != before || end != a.core.lease {
		a.announce()
	}
	if r.Prove != "" {
		a.tasks.Go(func() { a.prove(r.Prove) })
	}
	if a.core.lease != nil && a.core.lease != end { // another, or a renewal
		for _, s := range a.seats {
			s.part.Leased(*a.core.lease)
		}
	}
}

// shut ends what a lease gave. The lock is held.
func (a *Agent) shut(silent bool, lease *Lease) {
	if silent && lease != nil {
		a.held.silence(lease.End())
	} else {
		a.held.clear()
	}
	loss := part.Loss{Silent: silent}
	if lease != nil {
		loss.Ended = lease.End()
	}
	for _, s := range a.seats {
		s.part.Lost(loss)
	}
}

// tell logs where the host stands now. The lock is held.
func (a *Agent) tell(phase Phase, problem error) {
	switch phase {
	case Admitted:
		a.log.Info("admitted", "host", a.cfg.Host, "lease", a.core.lease.Version, "assurance", a.core.lease.Assurance, "interval", a.core.Interval(), "exposure", a.core.Exposure(a.now()))
	case Unenrolled:
		a.log.Warn("this machine is not enrolled: a member runs the command, and the agent goes on by itself", "command", a.Enrolment())
	default:
		a.log.Warn("no lease", "phase", phase, "because", problem)
	}
}

// Close ends the agent: socket, parts, keys, connections. It may be called twice.
func (a *Agent) Close() error {
	a.closing.Do(func() { a.closed = a.close() })
	return a.closed
}

func (a *Agent) close() error {
	a.stop()
	var errs []error
	if a.front != nil {
		errs = append(errs, a.front.stop())
	}
	errs = append(errs, a.ops.stop())
	a.tasks.Wait()
	errs = append(errs, a.closeParts())
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held.clear()
	if a.host != nil {
		a.host.Close()
	}
	if a.domain != nil {
		a.domain.Close()
	}
	if a.tpm != nil {
		errs = append(errs, a.tpm.Close())
	}
	if a.lock != nil {
		errs = append(errs, a.lock.Close())
	}
	return errors.Join(errs...)
}
