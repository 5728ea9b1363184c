/** CPU time of this process since then, in milliseconds. What others do on the machine is in a clock's time, and not in it. */
export function since(before: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1000
}
