// Package launch starts signed programs so that no other code ever ran in their process:
// an application is then known at level launched.
//
// [Seal] makes a copy of a program that nobody can write to. Who it is, the roots of the
// domain say of that copy (app.Program.Verify). [Start] runs it, as a user of its own,
// with a clean environment, without new privileges, core dumps, or files that it was not
// given, under a filter that is the launcher's; and hands it one end of a socket as
// descriptor 3. That its executable is still that copy, and that it is the process itself
// that sends, collect/process sees to at each request.
//
// Between fork and exec the agent's own binary runs ([Stage]). The package trusts it, the
// kernel and root. It needs Linux 6.9.
package launch
