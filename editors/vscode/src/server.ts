// The life of the language client: which program it runs, when it starts, stops and is started again, and
// what the server says of itself. Knows nothing of how that is shown; inline completion is the client's own.

import { setTimeout } from "node:timers/promises";
import * as vscode from "vscode";
import {
  CloseAction,
  ErrorAction,
  ExecuteCommandRequest,
  LanguageClient,
  RevealOutputChannelOn,
  State,
  TransportKind,
} from "vscode-languageclient/node";
import type { ErrorHandler, LanguageClientOptions, StaticFeature } from "vscode-languageclient/node";
import { find } from "./find";
import { relay } from "./log";
import { tellFailed, tellMissing } from "./problems";
import type { Python } from "./python";
import type { Status } from "./status";
import { Suggestions } from "./suggestions";
import type { Feedback } from "./suggestions";
import { SCHEMES } from "./switches";

/** Starts of a server that keeps crashing, within three minutes; then the user is asked. */
const MAX_RESTARTS = 3;
/** A server that is to end again may finish starting meanwhile. VS Code gives us 5 s in all to leave. */
const START_PATIENCE_MS = 2000;
const DOCUMENTS = SCHEMES.map((scheme) => ({ scheme }));
const NOTHING_KNOWN = { busy: false, progress: null, model: "", languages: [] };
const STARTING: Status = { ...NOTHING_KNOWN, kind: "starting", message: "The server is starting." };

export class Server implements vscode.Disposable {
  private readonly changed = new vscode.EventEmitter<void>();
  /** `status` is another. */
  readonly onDidChange = this.changed.event;
  readonly suggestions = new Suggestions(this);
  private readonly subscriptions: vscode.Disposable[];
  private client: Client | undefined;
  private current: Status = STARTING;
  /** The program found last, running or not. */
  private found: string | undefined;
  /** The reason for which no program was found last: the user is told of each once. */
  private missing: string | undefined;
  /** The end of the last step: searches, starts and stops follow one another. */
  private settled: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly log: vscode.LogOutputChannel,
    private readonly python: Python,
  ) {
    this.subscriptions = [
      this.changed,
      python.onDidChange(() => void this.search()),
      vscode.workspace.onDidChangeConfiguration((event) => {
        if (event.affectsConfiguration("umbrella.server.path")) {
          void this.search();
        }
      }),
    ];
  }

  /** What the server last said of itself, or what there is to say of one that does not run. */
  get status(): Status {
    return this.current;
  }

  get languages(): readonly string[] {
    return this.current.languages;
  }

  get program(): string | undefined {
    return this.found;
  }

  get isRunning(): boolean {
    return this.client?.state === State.Running;
  }

  /** Whether the server runs, once it has started or failed to. */
  async hasStarted(): Promise<boolean> {
    await this.settled;
    if (this.client?.state === State.Starting) {
      await this.client.start().catch(() => {}); // It is under way; what fails is told elsewhere.
    }
    return this.isRunning;
  }

  /** Looks for the program, and starts the server if it is another than before. */
  search(): Promise<void> {
    return this.next(async () => {
      const before = this.found;
      await this.look();
      if (this.found !== before || !this.client) {
        await this.replace();
      }
    });
  }

  /** Looks for the program and starts the server anew, whatever was before. */
  restart(): Promise<void> {
    this.missing = undefined; // Who asks is told again what is missing.
    return this.next(async () => {
      await this.look();
      await this.replace();
    });
  }

  /** Asks the server to run one of its commands. Throws if it is not running or refuses. */
  async request(command: string): Promise<unknown> {
    if (!this.client || !this.isRunning) {
      throw new Error(this.current.message || "The server is not running.");
    }
    const answer: unknown = await this.client.sendRequest(ExecuteCommandRequest.type, { command });
    return answer;
  }

  tell(feedback: Feedback): void {
    if (this.isRunning) {
      void this.client?.sendNotification("umbrella/feedback", feedback);
    }
  }

  /** Ends the server; the promise is kept when it has ended. */
  async close(): Promise<void> {
    await this.next(() => this.stop());
  }

  dispose(): void {
    vscode.Disposable.from(...this.subscriptions).dispose();
  }

  private next(step: () => Promise<void>): Promise<void> {
    const run = this.settled.then(step).catch((error: unknown) => this.log.error(String(error)));
    this.settled = run;
    return run;
  }

  private async look(): Promise<void> {
    const search = await find(this.python);
    if ("program" in search) {
      this.found = search.program;
      this.missing = undefined;
      return;
    }
    this.found = undefined;
    this.log.warn(search.problem);
    if (this.missing !== search.problem) {
      this.missing = search.problem;
      void tellMissing(search.problem);
    }
  }

  private async replace(): Promise<void> {
    await this.stop();
    if (this.found === undefined) {
      this.set({ ...NOTHING_KNOWN, kind: "error", message: this.missing ?? "" });
    } else {
      this.start(this.found);
    }
  }

  private async stop(): Promise<void> {
    const client = this.client;
    this.client = undefined;
    this.suggestions.forget();
    if (client?.state === State.Starting) {
      // Until then it cannot be stopped, and there need not even be a process to end.
      await Promise.race([client.start(), setTimeout(START_PATIENCE_MS)]).catch(() => {});
    }
    const child = client?.serverProcess;
    try {
      await client?.stop();
    } catch {
      child?.kill(); // It never started, or does not answer. The client makes sure a little later.
    }
  }

  private start(program: string): void {
    this.set(STARTING);
    const client: Client = new Client(program, this.log, {
      documentSelector: DOCUMENTS,
      middleware: { provideInlineCompletionItems: this.suggestions.provide },
      errorHandler: this.restarting(() => client),
    });
    this.client = client;
    client.onDidChangeState(({ newState }) => {
      if (client !== this.client) {
        return;
      }
      if (newState === State.Starting) {
        this.suggestions.forget();
        this.set(STARTING);
      } else if (newState === State.StartFailed) {
        this.fail(`The Umbrella server did not start: ${program}. The log says more.`);
      }
    });
    client.onNotification("umbrella/status", (status: Status) => {
      if (client === this.client) {
        this.set(status);
      }
    });
    client.onNotification(
      "umbrella/refresh",
      ({ uri }: { uri: string }) => void this.suggestions.refresh(uri),
    );
    this.log.info(`Starting ${program}`);
    client.start().catch((error: unknown) => this.log.error(`No connection to ${program}: ${String(error)}`));
  }

  /** The client's own policy of restarts, with our words in the place of its. */
  private restarting(client: () => Client): ErrorHandler {
    let policy: ErrorHandler | undefined;
    return {
      // A server that cannot be written to is about to close its end, too.
      error: () => ({ action: ErrorAction.Continue, handled: true }),
      closed: async () => {
        policy ??= client().createDefaultErrorHandler(MAX_RESTARTS);
        const given = { action: CloseAction.DoNotRestart, handled: true };
        if (client() !== this.client || client().state !== State.Running) {
          return given; // It was stopped, or has not even started.
        }
        const { action } = await policy.closed();
        if (action === CloseAction.DoNotRestart) {
          this.fail("The Umbrella server keeps ending unexpectedly. The log says more.");
        }
        return { ...given, action };
      },
    };
  }

  private fail(problem: string): void {
    this.set({ ...NOTHING_KNOWN, kind: "error", message: problem });
    void tellFailed(problem);
  }

  private set(status: Status): void {
    this.current = status;
    this.changed.fire();
  }
}

class Client extends LanguageClient {
  constructor(program: string, log: vscode.LogOutputChannel, options: LanguageClientOptions) {
    super(
      "umbrella",
      "Umbrella",
      { command: program, transport: TransportKind.stdio }, // Adds --stdio.
      {
        ...options,
        outputChannel: log,
        revealOutputChannelOn: RevealOutputChannelOn.Never,
        stdioOptions: { stdout: () => {}, stderr: relay }, // stdout is the protocol's.
        initializationFailedHandler: () => false, // Without one, the client shows a message of its own.
      },
    );
    this.registerFeature(CAPABILITIES);
  }

  /** Logs it, and leaves it to `Server` to show what matters: some errors would be shown come what may. */
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

/** Says that we understand `umbrella/status` and `umbrella/refresh`. */
const CAPABILITIES: StaticFeature = {
  fillClientCapabilities(capabilities): void {
    capabilities.experimental = { umbrella: { status: true, refresh: true } };
  },
  initialize(): void {},
  getState: () => ({ kind: "static" }),
  clear(): void {},
};
