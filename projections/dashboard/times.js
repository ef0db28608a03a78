// How times are shown: milliseconds since 1970 as UTC, and durations in words.

/** Write a time of the day, UTC: "08:15:09". */
export function clockTime(timeMs) {
  return new Date(timeMs).toISOString().slice(11, 19);
}

/** Write a time with its date, UTC. */
export function dateTime(timeMs) {
  return new Date(timeMs).toISOString().replace("T", " ");
}

/** Write a duration: "4.2 s", "3 min 05 s", "2 h 07 min". */
export function duration(durationMs) {
  const tenths = Math.max(0, Math.trunc(durationMs / 100));
  if (tenths < 600) {
    return `${Math.trunc(tenths / 10)}.${tenths % 10} s`;
  }
  const seconds = Math.trunc(tenths / 10);
  if (seconds < 3600) {
    return `${Math.trunc(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
  }
  const minutes = Math.trunc(seconds / 60);
  if (minutes < 2880) {
    return `${Math.trunc(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  }
  return `${Math.trunc(minutes / 1440)} days`;
}

/** Write how long ago something was, coarsely, so that it seldom changes. */
export function ago(durationMs) {
  const seconds = Math.max(0, Math.trunc(durationMs / 1000));
  if (seconds < 60) {
    return `${seconds} s ago`;
  }
  if (seconds < 3600) {
    return `${Math.trunc(seconds / 60)} min ago`;
  }
  return `${duration(durationMs)} ago`;
}
