package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/keystead/keystead/agent/part"
	"github.com/keystead/keystead/collect"
	running "github.com/keystead/keystead/collect/process"
	"github.com/keystead/keystead/collect/process/h2ping"
)

// Bounds of what an application sends, and of how long it takes for it.
const (
	maxRequest     = 8 << 10 // bytes of a message
	maxHeader      = 8 << 10 // bytes
	requestTimeout = part.MaxTime
	idleTimeout    = 30 * time.Second
	headerTimeout  = 5 * time.Second
)

// front is the local socket with the server behind it.
type front struct {
	path     string
	made     os.FileInfo // of the socket
	listener *net.UnixListener
	users    *users
	now      func() Moment
	server   *http.Server
	steady   *http.Server // of launched programs, whose one connection has no end of its own
	log      *slog.Logger

	mu       sync.Mutex
	launched map[uint64]*launched // by inode in pidfs
}

// openFront makes the socket with its mode and owner before it has its name, so that
// nobody connects who may not. It replaces a socket that an agent left behind.
func openFront(c SocketConfig, now func() Moment, log *slog.Logger) (*front, error) {
	mode, err := c.mode()
	if err != nil {
		return nil, err
	}
	uid, gid, err := c.owner()
	if err != nil {
		return nil, err
	}
	if info, err := os.Lstat(c.Path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("socket.path %s: is there, and is no socket", c.Path)
	}
	dir, err := os.MkdirTemp(filepath.Dir(c.Path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	made := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := running.Listening(l); err != nil {
		log.Warn("no application is known above level peer", "because", err)
	}
	if err = os.Chmod(made, mode); err == nil {
		err = os.Chown(made, uid, gid)
	}
	var info os.FileInfo
	if err == nil {
		info, err = os.Lstat(made)
	}
	if err == nil {
		err = os.Rename(made, c.Path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(made))
	}
	return &front{path: c.Path, made: info, listener: l, users: newUsers(c), now: now, log: log, launched: map[uint64]*launched{}}, nil
}

// owner returns the numbers of user and group, -1 for the agent's own.
func (c *SocketConfig) owner() (uid, gid int, err error) {
	number := func(name string, look func(string) (string, error)) (int, error) {
		if name == "" {
			return -1, nil
		}
		if n, err := strconv.ParseUint(name, 10, 31); err == nil {
			return int(n), nil
		}
		id, err := look(name)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(id)
	}
	if uid, err = number(c.User, func(s string) (string, error) { u, err := osuser.Lookup(s); return idOf(u, err) }); err != nil {
		return 0, 0, fmt.Errorf("socket.user: %w", err)
	}
	if gid, err = number(c.Group, func(s string) (string, error) { g, err := osuser.LookupGroup(s); return gidOf(g, err) }); err != nil {
		return 0, 0, fmt.Errorf("socket.group: %w", err)
	}
	return uid, gid, nil
}

func idOf(u *osuser.User, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func gidOf(g *osuser.Group, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return g.Gid, nil
}

// Accept implements net.Listener: it finds out who connected, and closes unread what is
// one connection too many.
func (f *front) Accept() (net.Conn, error) {
	for {
		conn, err := f.listener.AcceptUnix()
		if err != nil {
			return nil, err
		}
		v := &visitor{Conn: conn, front: f}
		v.peer, v.err = collect.NewPeer(conn)
		v.process, v.unknown = running.Accept(conn)
		uid := ^uint32(0) // nobody's
		if v.err == nil {
			uid = v.peer.UID()
		}
		if v.process != nil && uid == 0 {
			v.process.Keep(launchDescriptors)
		}
		if v.user, v.gone = f.users.enter(uid, f.now()); v.user != nil {
			return v.askable(), nil
		}
		f.log.Warn("a connection too many is closed", "user", uid)
		v.gone = func() {}
		_ = v.Close() // unread
	}
}

// Addr implements net.Listener.
func (f *front) Addr() net.Addr { return f.listener.Addr() }

// Close implements net.Listener.
func (f *front) Close() error { return f.listener.Close() }

type visitorKey struct{}

// serve answers the declared procedures, and no others, until the front is closed.
func (f *front) serve(declared []part.Procedure, failed func(error)) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	f.server = &http.Server{
		Handler: procedures(declared, failed), Protocols: protocols, ErrorLog: slog.NewLogLogger(f.log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, WriteTimeout: 2 * requestTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 8, MaxReceiveBufferPerConnection: 64 << 10, MaxReceiveBufferPerStream: 64 << 10},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, visitorKey{}, c.(*h2ping.Conn).Conn.(*visitor))
		},
	}
	f.steady = &http.Server{Handler: f.server.Handler, Protocols: protocols, ErrorLog: f.server.ErrorLog, MaxHeaderBytes: maxHeader, HTTP2: f.server.HTTP2, ConnContext: f.server.ConnContext}
	go func() {
		if err := f.server.Serve(f); !errors.Is(err, http.ErrServerClosed) {
			f.log.Error("the local socket is no longer served", "because", err)
		}
	}()
}

// stop ends the requests under way, for a while, and removes the socket, unless another
// agent has put its own there.
func (f *front) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var err error
	if f.server == nil {
		err = f.Close()
	} else if f.server.Shutdown(ctx) != nil {
		err = f.server.Close()
	}
	if f.steady != nil {
		err = errors.Join(err, f.steady.Close())
	}
	f.forget(true)
	if info, lerr := os.Lstat(f.path); lerr == nil && os.SameFile(info, f.made) {
		err = errors.Join(err, os.Remove(f.path))
	}
	return err
}
